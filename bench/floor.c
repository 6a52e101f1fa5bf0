/* The two wake-ups between a block that is due and a waiting reader, and nothing else.
 *
 * A sender writes a message into a Unix socket when a block is due. A relay that waits for the socket stores
 * the block's number in shared memory and wakes those who wait on it. A waiter, asleep on that number, notes
 * the time. Each is a process of its own. Prints a line a block: nanoseconds from due to awake.
 *
 *   floor BLOCKS PACE_NS
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_NBYTES = 1024, MAX_BLOCKS = 100000, SPIN_NS = 200000 };

struct shared {
    uint32_t number;
    uint64_t awake_ns[MAX_BLOCKS];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void futex(uint32_t *word, int operation, uint32_t value)
{
    syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

static int relay(struct shared *shared, int fd, uint32_t blocks)
{
    char message[MESSAGE_NBYTES];
    for (uint32_t block = 1; block <= blocks; block++) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, -1) != 1 || recv(fd, message, sizeof message, MSG_WAITALL) != sizeof message)
            return 1;
        __atomic_store_n(&shared->number, block, __ATOMIC_RELEASE);
        futex(&shared->number, FUTEX_WAKE, INT32_MAX);
    }
    return 0;
}

static int waiter(struct shared *shared, uint32_t blocks)
{
    for (uint32_t seen = 0, number; seen < blocks; seen = number) {
        while ((number = __atomic_load_n(&shared->number, __ATOMIC_ACQUIRE)) == seen)
            futex(&shared->number, FUTEX_WAIT, seen);
        uint64_t now = now_ns();
        for (uint32_t block = seen; block < number; block++)
            shared->awake_ns[block] = now;
    }
    return 0;
}

static void sleep_until(uint64_t due_ns)
{
    for (uint64_t now; (now = now_ns()) < due_ns;)
        if (due_ns - now > SPIN_NS) {
            struct timespec pause = {.tv_nsec = (long)(due_ns - now - SPIN_NS)};
            nanosleep(&pause, NULL);
        }
}

int main(int argc, char **argv)
{
    static const char message[MESSAGE_NBYTES];
    long blocks = argc == 3 ? atol(argv[1]) : 0, pace_ns = argc == 3 ? atol(argv[2]) : 0;
    if (blocks < 1 || blocks > MAX_BLOCKS || pace_ns < 1 || pace_ns > 500000000)
        return 2;
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fds[2];
    if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
        return 1;
    pid_t relaying = fork();
    if (relaying == 0)
        _exit(relay(shared, fds[1], (uint32_t)blocks));
    pid_t waiting = fork();
    if (waiting == 0)
        _exit(waiter(shared, (uint32_t)blocks));
    if (relaying < 0 || waiting < 0)
        return 1;
    uint64_t start_ns = now_ns() + 100000000;
    for (long block = 0; block < blocks; block++) {
        sleep_until(start_ns + (uint64_t)(block * pace_ns));
        if (send(fds[0], message, sizeof message, 0) != sizeof message)
            return 1;
    }
    int status = 0, failed = 0;
    for (int child = 0; child < 2; child++)
        failed |= wait(&status) < 0 || status != 0;
    for (long block = 0; block < blocks; block++)
        printf("%llu\n",
               (unsigned long long)(shared->awake_ns[block] - start_ns - (uint64_t)(block * pace_ns)));
    return failed;
}

/* The modes of a stress program: threads and unchecked, writer, reader. Included at its end.
 *
 * The program defines NAME and SIZE (words of its usage), LEAST_SIZE and MOST_SIZE, the struct `reader`
 * (arena, seed, unchecked, limit, reads and counts of its own), and
 *
 *   prepare(size)                  what writer and readers know beforehand
 *   capacities_for(size)
 *   start_load, one_commit, finish_load    the writer: before, again and again, after
 *   run_reader, add_reader, print_reader   a reader, the sum of several, what they counted
 *   has_failed(total, unchecked)   whether the counts are not those of a good run
 *   progress(arena)                a count that must grow while a reader looks; PROGRESS names it
 */
static uint8_t *map(uint64_t nbytes, int protection, int flags, int fd) {
    uint8_t *base = mmap(NULL, nbytes, protection, MAP_SHARED | flags, fd, 0);
    if (base == MAP_FAILED) fail("mmap", 0);
    return base;
}

static psa_arena open_arena(uint8_t *base, uint64_t nbytes) {
    psa_arena arena;
    int status = psa_arena_open(&arena, base, nbytes);
    if (status != PSA_OK) fail("psa_arena_open", status);
    return arena;
}

static void commit_for(load *run, uint64_t since_ns, double seconds) {
    while ((double)(now_ns() - since_ns) / 1e9 < seconds) one_commit(run);
}

static int run_threads(double seconds, uint32_t readers, uint32_t size, int unchecked) {
    psa_capacities capacities = capacities_for(size);
    uint64_t nbytes = psa_arena_nbytes(&capacities);
    uint8_t *base = map(nbytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1);
    load run;
    start_load(&run, base, nbytes, size);
    psa_arena arena = open_arena(base, nbytes);
    reader *all = calloc(readers, sizeof(*all));
    pthread_t *threads = calloc(readers, sizeof(*threads));
    if (!all || !threads) fail("calloc", 0);
    uint64_t since = now_ns();
    for (uint32_t i = 0; i < readers; i++) {
        all[i] = (reader){.arena = &arena, .seed = i, .unchecked = unchecked};
        if (pthread_create(&threads[i], NULL, run_reader, &all[i]) != 0) fail("pthread_create", i);
    }
    commit_for(&run, since, seconds);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    reader total = {0};
    for (uint32_t i = 0; i < readers; i++) {
        pthread_join(threads[i], NULL);
        add_reader(&total, &all[i]);
    }
    print_reader(&total, (double)(now_ns() - since) / 1e9);
    finish_load(&run, since);
    free(all);
    free(threads);
    munmap(base, nbytes);
    return total.reads == 0 || has_failed(&total, unchecked);
}

static int run_writer(const char *path, double seconds, uint32_t size) {
    psa_capacities capacities = capacities_for(size);
    uint64_t nbytes = psa_arena_nbytes(&capacities);
    char building[4096];
    snprintf(building, sizeof(building), "%s.building", path);
    int fd = open(building, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)nbytes) != 0) fail(building, fd);
    load run;
    start_load(&run, map(nbytes, PROT_READ | PROT_WRITE, 0, fd), nbytes, size);
    if (rename(building, path) != 0) fail("rename", 0);
    uint64_t since = now_ns();
    commit_for(&run, since, seconds);
    finish_load(&run, since);
    return 0;
}

static int run_reader_process(const char *path, uint64_t reads) {
    int fd = -1;
    for (int i = 0; i < 1000 && fd < 0; i++) {
        fd = open(path, O_RDONLY);
        if (fd < 0) usleep(10000);
    }
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) fail(path, fd);
    uint64_t nbytes = (uint64_t)info.st_size;
    psa_arena arena = open_arena(map(nbytes, PROT_READ, 0, fd), nbytes);
    prepare(arena.max_pools);
    reader self = {.arena = &arena, .seed = (uint32_t)getpid(), .limit = reads};
    uint64_t first = progress(&arena), since = now_ns();
    run_reader(&self);
    print_reader(&self, (double)(now_ns() - since) / 1e9);
    uint64_t made = progress(&arena) - first;
    printf("meanwhile %llu " PROGRESS "\n", (unsigned long long)made);
    return has_failed(&self, 0) || made == 0;
}

static unsigned long number(const char *text, unsigned long low, unsigned long high) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != 0 || value < low || value > high) {
        fprintf(stderr, "%s is not a number from %lu to %lu\n", text, low, high);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = argc > 1 ? argv[1] : "";
    int unchecked = !strcmp(mode, "unchecked");
    if (argc == 4 && !strcmp(mode, "reader"))
        return run_reader_process(argv[2], number(argv[3], 1, UINT64_C(1) << 60));
    if (argc == 5 && (unchecked || !strcmp(mode, "threads") || !strcmp(mode, "writer"))) {
        uint32_t size = (uint32_t)number(argv[4], LEAST_SIZE, MOST_SIZE);
        prepare(size);
        if (!strcmp(mode, "writer")) return run_writer(argv[2], (double)number(argv[3], 1, 86400), size);
        return run_threads((double)number(argv[2], 1, 86400), (uint32_t)number(argv[3], 1, 256), size,
                           unchecked);
    }
    fprintf(stderr, "usage: " NAME " threads|unchecked SECONDS READERS " SIZE "\n"
                    "       " NAME " writer PATH SECONDS " SIZE "\n"
                    "       " NAME " reader PATH READS\n");
    return 2;
}

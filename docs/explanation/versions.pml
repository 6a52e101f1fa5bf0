/* Model of the version protocol: commit, read, slab reuse, kill, take-over, abort.
 *
 * The protocol and the names W1..W5, R1..R3, T1 are explained in concurrency.md. One writer (which may
 * be killed and taken over), one reader that reads pool 0 once, starting at any moment. Readers do not
 * influence anybody, so one stands for all of them; a snapshot is several such reads with one c.
 *
 * Memory. Stores go to a set of pending stores and become visible one by one in any order; a release
 * fence, and a release store before it is issued, wait until the set is empty. A store issued after a
 * release store may become visible before it. Words that are stored more than once between two fences
 * may show JUNK in between. Loads between two acquire points happen in any order, also the load of
 * the ticks before the load of the slab reference that leads to them. All of this is at least what
 * C11 allows on a multi-copy atomic machine (x86-64, ARM64).
 *
 * A kill loses any part of the pending stores (compilers may have moved them), except that a store
 * followed by W5 has been executed.
 *
 * Checked: a validated read equals what the newest commit <= c that touched the pool wrote, words and
 * ticks; a read that runs while the writer is dead succeeds at its first try; nobody blocks.
 *
 *   spin -a versions.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * Bounds, by -D: POOLS, COMMITS, KILLS, ABORTS.
 * Broken on purpose, by -D: NO_W2, FREE_BEFORE_W1, W4_RELAXED, R1_LATE, R3_EARLY, NO_T1, T1_KEEPS_SLAB,
 * NO_W5. R2_RELAXED is weaker than the code and still right.
 */

#ifndef POOLS
#define POOLS 1
#endif
#ifndef COMMITS
#define COMMITS 4
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef ABORTS
#define ABORTS 0
#endif

#define LINES (2 * POOLS)
#define SLABS (2 * POOLS + 1)
#define NONE 15
#define JUNK 255
#define DROPPED 255 /* a stamp newer than any commit */

/* what commit `t` of the writer's life `life` stores in pool `p`; distinct for each, never JUNK */
#define VALUE(p, t) ((t) + 8 * life + 64 * (p))

/* shared memory as every process sees it */
byte committed = 1;
byte stamp[LINES];
byte word0[LINES];
byte word1[LINES];
byte slab[LINES];
byte ticks[SLABS];

/* the same as the writer left it in program order; differs where a bit of `pending` is set */
byte own_committed = 1;
byte own_stamp[LINES];
byte own_word0[LINES];
byte own_word1[LINES];
byte own_slab[LINES];
byte own_ticks[SLABS];
int pending = 0;

#define BIT_COMMITTED 1
#define BIT_STAMP(l) (1 << (1 + 4 * (l)))
#define BIT_WORD0(l) (1 << (2 + 4 * (l)))
#define BIT_WORD1(l) (1 << (3 + 4 * (l)))
#define BIT_SLAB(l) (1 << (4 + 4 * (l)))
#define BIT_TICKS(k) (1 << (1 + 4 * LINES + (k)))

/* the writer's private state */
byte next_commit = 2;
byte free_slabs;
byte life = 0;
byte kills = 0;
byte aborts = 0;
bool dead = false;

/* what a read of pool 0 must give: at the present `committed`, and at the one still pending */
byte true_stamp = 1, true_word = 1, true_ticks = 1;
byte next_stamp, next_word, next_ticks;

/* one pending store becomes visible, or a word that is stored twice shows its first value */
#define SHOW(bit, shared, own) \
    :: atomic { (pending & bit) -> shared = own; pending = pending & ~(bit) }
#define SPOIL(bit, shared) \
    :: atomic { (pending & bit) && shared != JUNK -> shared = JUNK }
#define SHOW_LINE(l) \
    SHOW(BIT_STAMP(l), stamp[l], own_stamp[l]) \
    SHOW(BIT_WORD0(l), word0[l], own_word0[l]) \
    SPOIL(BIT_WORD0(l), word0[l]) \
    SHOW(BIT_WORD1(l), word1[l], own_word1[l]) \
    SHOW(BIT_SLAB(l), slab[l], own_slab[l])
#define SHOW_TICKS(k) \
    SHOW(BIT_TICKS(k), ticks[k], own_ticks[k]) \
    SPOIL(BIT_TICKS(k), ticks[k])

inline show_committed() {
    committed = own_committed;
    pending = pending & ~BIT_COMMITTED;
    true_stamp = next_stamp;
    true_word = next_word;
    true_ticks = next_ticks;
    next_stamp = 0;
    next_word = 0;
    next_ticks = 0
}

/* until everything issued so far is visible; the writer may die at any moment of it */
inline wait_visible() {
    do
    :: pending == 0 -> break
    :: atomic { (pending & BIT_COMMITTED) -> show_committed() }
    SHOW_LINE(0)
    SHOW_LINE(1)
    SHOW_TICKS(0)
    SHOW_TICKS(1)
    SHOW_TICKS(2)
#if POOLS == 2
    SHOW_LINE(2)
    SHOW_LINE(3)
    SHOW_TICKS(3)
    SHOW_TICKS(4)
#endif
    :: atomic { kills < KILLS -> kills++; goto killed }
    od
}

inline free_older_slab() {
    if
    :: own_slab[l] != NONE && own_slab[l] != own_slab[o] ->
        free_slabs = free_slabs | (1 << own_slab[l])
    :: else
    fi
}

/* take any free slab k and write this commit's ticks there */
inline build_slab(p) {
    if
    :: (free_slabs & 1) -> k = 0
    :: (free_slabs & 2) -> k = 1
    :: (free_slabs & 4) -> k = 2
#if POOLS == 2
    :: (free_slabs & 8) -> k = 3
    :: (free_slabs & 16) -> k = 4
#endif
    fi;
    free_slabs = free_slabs & ~(1 << k);
    own_ticks[k] = VALUE(p, next_commit);
    pending = pending | BIT_TICKS(k)
}

/* the first touch of pool p in this commit, and the last: later ones store the same words again */
inline touch(p) {
    atomic {
        l = (own_stamp[2 * p] == DROPPED ||
             (own_stamp[2 * p + 1] != DROPPED && own_stamp[2 * p] < own_stamp[2 * p + 1])
             -> 2 * p : 2 * p + 1);
        o = 4 * p + 1 - l;
        k = own_slab[o];
#ifdef FREE_BEFORE_W1
        free_older_slab();
        if
        :: build_slab(p)
        :: skip
        fi;
#endif
        own_stamp[l] = next_commit; /* W1 */
        pending = pending | BIT_STAMP(l)
    }
#ifndef NO_W2
    wait_visible(); /* W2 */
#endif
    atomic { /* W3 */
#ifndef FREE_BEFORE_W1
        free_older_slab();
        k = own_slab[o];
        if
        :: build_slab(p)
        :: skip
        fi;
#endif
        own_slab[l] = k;
        own_word0[l] = VALUE(p, next_commit);
        own_word1[l] = VALUE(p, next_commit);
        pending = pending | BIT_SLAB(l) | BIT_WORD0(l) | BIT_WORD1(l)
    }
}

/* T1, for a take-over and for an abort: forget lines newer than `newest`, then count what is in use */
inline drop_lines(newest) {
    free_slabs = (1 << SLABS) - 1;
    l = 0;
    do
    :: l < LINES ->
        if
        :: own_stamp[l] > newest ->
#ifndef NO_T1
            own_stamp[l] = DROPPED;
            pending = pending | BIT_STAMP(l);
#ifndef T1_KEEPS_SLAB
            own_slab[l] = NONE;
            pending = pending | BIT_SLAB(l);
#endif
#endif
            skip
        :: else
        fi;
        if
        :: own_stamp[l] != DROPPED && own_slab[l] != NONE ->
            free_slabs = free_slabs & ~(1 << own_slab[l])
        :: else
        fi;
        l++
    :: else -> break
    od;
    l = 0
}

active proctype writer() {
    byte l, o, k;
    bool touched0;

    atomic {
        stamp[0] = 1; word0[0] = 1; word1[0] = 1; slab[0] = 0; ticks[0] = 1; slab[1] = NONE;
        own_stamp[0] = 1; own_word0[0] = 1; own_word1[0] = 1; own_slab[0] = 0; own_ticks[0] = 1;
        own_slab[1] = NONE;
        free_slabs = ((1 << SLABS) - 1) & ~1;
#if POOLS == 2
        stamp[2] = 1; word0[2] = 65; word1[2] = 65; slab[2] = 1; ticks[1] = 65; slab[3] = NONE;
        own_stamp[2] = 1; own_word0[2] = 65; own_word1[2] = 65; own_slab[2] = 1; own_ticks[1] = 65;
        own_slab[3] = NONE;
        free_slabs = free_slabs & ~2;
#endif
        run reader()
    }

begin:
    do
    :: next_commit <= COMMITS + 1 ->
#if POOLS == 2
        if
        :: touch(1)
        :: skip
        fi;
#endif
        if
        :: touch(0); touched0 = true
        :: skip /* a block without events for this pool */
        fi;
        if
        :: atomic {
            aborts < ABORTS ->
            aborts++;
            life++;
            touched0 = false;
            drop_lines(next_commit - 1);
            goto begin
           }
        :: skip
        fi;
#ifndef W4_RELAXED
        wait_visible();
#endif
        atomic { /* W4 */
            if
            :: touched0 ->
                l = (own_stamp[0] == next_commit -> 0 : 1);
                next_stamp = next_commit;
                next_word = own_word0[l];
                next_ticks = (own_slab[l] == NONE -> 0 : own_ticks[own_slab[l]])
            :: else ->
                next_stamp = true_stamp;
                next_word = true_word;
                next_ticks = true_ticks
            fi;
            touched0 = false;
            l = 0; o = 0; k = 0;
            own_committed = next_commit;
            pending = pending | BIT_COMMITTED;
            next_commit++
        }
    :: else -> break
    od;
    wait_visible();
    goto done;

killed:
    atomic {
#if !defined(NO_W5)
        if
        :: (pending & BIT_COMMITTED) -> show_committed() /* W5: it was executed */
        :: else
        fi;
#endif
        pending = 0;
        touched0 = false;
        next_stamp = 0; next_word = 0; next_ticks = 0;
        own_committed = committed;
        l = 0;
        do
        :: l < LINES ->
            own_stamp[l] = stamp[l];
            own_word0[l] = word0[l];
            own_word1[l] = word1[l];
            own_slab[l] = slab[l];
            l++
        :: else -> break
        od;
        k = 0;
        do
        :: k < SLABS -> own_ticks[k] = ticks[k]; k++
        :: else -> break
        od;
        l = 0; o = 0; k = 0;
        dead = true
    }
    atomic { /* the next writer */
        dead = false;
        life++;
        next_commit = committed + 1;
        drop_lines(committed);
        goto begin
    }
done:
    skip
}

#define TODO_STAMP0 1
#define TODO_STAMP1 2
#define TODO_WORD0 4
#define TODO_WORD1 8
#define TODO_SLAB 16
#define TODO_TICKS 32
#define TODO_AGAIN 64

/* R1, with what the read will have to give */
inline load_committed() {
    c = committed;
    died = (dead -> kills : 0);
    want_stamp = true_stamp;
    want_word = true_word;
    want_ticks = true_ticks
}

#define FIRST_IS_NEWEST (s[0] != 0 && s[0] <= c && (s[1] > c || s[1] < s[0]))
#define SECOND_IS_NEWEST (s[1] != 0 && s[1] <= c && (s[0] > c || s[0] < s[1]))

proctype reader() {
    byte c, s[2], which;
    byte again;
    byte k;                   /* the slab reference, loaded or guessed */
    bool torn;                /* some load so far differs from what it has to be */
    byte todo;
    byte want_stamp, want_word, want_ticks;
    byte died;                /* kills so far, if the writer was dead at the start */

#ifdef R1_LATE
    s[0] = stamp[0];
    s[1] = stamp[1];
    atomic { load_committed() }
#else
    atomic { load_committed() } /* R1 */
#ifndef R2_RELAXED
    s[0] = stamp[0]; /* R2 */
    s[1] = stamp[1];
#endif
#endif

#ifdef R2_RELAXED
    if
    :: which = 0
    :: which = 1
    fi;
    todo = TODO_STAMP0 | TODO_STAMP1 | TODO_WORD0 | TODO_WORD1 | TODO_SLAB | TODO_TICKS;
#else
    atomic {
        if
        :: FIRST_IS_NEWEST -> which = 0
        :: SECOND_IS_NEWEST -> which = 1
        :: else -> goto too_old
        fi;
        c = 0;
        s[1 - which] = 0;
        todo = TODO_WORD0 | TODO_WORD1 | TODO_SLAB | TODO_TICKS
    }
#endif
#ifdef R3_EARLY
    todo = todo | TODO_AGAIN;
#endif

    do
    :: atomic { (todo & TODO_STAMP0) -> s[0] = stamp[0]; todo = todo & ~TODO_STAMP0 }
    :: atomic { (todo & TODO_STAMP1) -> s[1] = stamp[1]; todo = todo & ~TODO_STAMP1 }
    :: atomic {
        (todo & TODO_WORD0) ->
        torn = torn || word0[which] != want_word;
        todo = todo & ~TODO_WORD0
       }
    :: atomic {
        (todo & TODO_WORD1) ->
        torn = torn || word1[which] != want_word;
        todo = todo & ~TODO_WORD1
       }
    :: atomic { /* the reference first, then what it leads to */
        (todo & TODO_SLAB) && (todo & TODO_TICKS) ->
        k = slab[which];
        todo = todo & ~TODO_SLAB
       }
    :: atomic {
        !(todo & TODO_SLAB) && (todo & TODO_TICKS) ->
        if
        :: k < SLABS -> torn = torn || ticks[k] != want_ticks
        :: else -> torn = true
        fi;
        k = 0;
        todo = todo & ~TODO_TICKS
       }
    :: atomic { /* a guess first; an execution in which it was wrong does not exist */
        (todo & TODO_SLAB) && (todo & TODO_TICKS) ->
        k = 0;
        do
        :: break
        :: k < SLABS - 1 -> k++
        od;
        torn = torn || ticks[k] != want_ticks;
        todo = todo & ~TODO_TICKS
       }
    :: atomic {
        (todo & TODO_SLAB) && !(todo & TODO_TICKS) ->
        if
        :: k != slab[which] -> goto end
        :: else
        fi;
        k = 0;
        todo = todo & ~TODO_SLAB
       }
    :: atomic { (todo & TODO_AGAIN) -> again = stamp[which]; todo = todo & ~TODO_AGAIN }
    :: todo == 0 -> break
    od;

    atomic {
#ifdef R2_RELAXED
        if
        :: FIRST_IS_NEWEST ->
            if
            :: which != 0 -> goto end
            :: else
            fi
        :: SECOND_IS_NEWEST ->
            if
            :: which != 1 -> goto end
            :: else
            fi
        :: else -> goto too_old
        fi;
#endif
#ifndef R3_EARLY
        again = stamp[which]; /* R3 */
#endif
        if
        :: again == s[which] ->
            assert(again == want_stamp);
            assert(!torn);
            goto end
        :: else
        fi
    }

too_old:
    /* the whole read ran while one dead writer lay there: it must have succeeded */
    assert(!(dead && died == kills))

end:
    skip
}

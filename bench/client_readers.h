/* Those who wait: a reader woken by a write, a reader of whole blocks, ten thousand readers. Part of client.c. */
struct shared { sem_t ready, done; volatile int64_t got_ns; volatile long reads; };

static struct shared *share(void)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || sem_init(&shared->ready, 1, 0) || sem_init(&shared->done, 1, 0))
        die("shared memory: expected some", -1);
    return shared;
}

/* A reader that gave up ends the run; one that is through does not. */
static void child_ended(int signal_number)
{
    int status;
    (void)signal_number;
    if (waitpid(-1, &status, WNOHANG) > 0 && status)
        _exit(1);
}

static void started(pid_t child)
{
    if (child < 0)
        die("fork: expected a child", child);
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(TIME_LIMIT_S);
    }
}

/* From just before the write to the blocked reader having its bytes. */
static void wake(void (*write_event)(void), double *samples, size_t count)
{
    struct shared *shared = share();
    signal(SIGCHLD, child_ended);
    pid_t child = fork();
    started(child);
    for (size_t i = 0; !child && i < count; i++) {
        sem_post(&shared->ready);
        ssize_t got = read(queue, scratch, sizeof scratch);
        shared->got_ns = now_ns();
        if (got != RECORD)
            die("woken read: expected 16", got);
        sem_post(&shared->done);
    }
    if (!child)
        _exit(0);
    for (size_t i = 0; i < count; i++) {
        sem_wait(&shared->ready);
        nanosleep(&(struct timespec){.tv_nsec = SETTLE_NS}, NULL);
        int64_t start = now_ns();
        write_event();
        sem_wait(&shared->done);
        samples[i] = shared->got_ns - start;
    }
    tell(samples, count);
    waitpid(child, NULL, 0);
}

/* Blocks of 512 records in lockstep: the next is written when the reader has all of this one. */
static void throughput(size_t count)
{
    struct shared *shared = share();
    signal(SIGCHLD, child_ended);
    pid_t child = fork();
    started(child);
    uint32_t expected = 0;
    for (size_t i = 0; !child && i < count + WARM_UP; i++) {
        for (size_t have = 0; have < BLOCK; shared->reads++) {
            ssize_t got = read(queue, scratch, sizeof scratch);
            if (got <= 0 || got % RECORD)
                die("read: expected whole records", got);
            for (ssize_t n = 0; n < got / RECORD; n++, have++)
                if (scratch[n].info != RECORD || scratch[n].serial != expected++)
                    die("lost: expected the record that follows", scratch[n].serial);
        }
        sem_post(&shared->done);
    }
    if (!child)
        _exit(0);
    int64_t start = 0;
    for (size_t i = 0; i < count + WARM_UP; i++) {
        if (i == WARM_UP) {
            start = now_ns();
            shared->reads = 0;
        }
        fill_block();
        write_all(records, block, sizeof block);
        sem_wait(&shared->done);
    }
    double each_ns = (now_ns() - start) / (double)(count * BLOCK);
    printf("median_ns %.2f\nreads_per_block %.2f\n", each_ns, shared->reads / (double)count);
    waitpid(child, NULL, 0);
}

/* ---- many readers ---- */

static void *reader(void *path)
{
    char bytes[RECORD];
    int fd = path ? opened(path, O_RDONLY) : queue;
    (void)!read(fd, bytes, sizeof bytes);
    return NULL;
}

/* COUNT threads blocked in read, on one descriptor or (path) each on its own, until killed. */
static void readers(char *path, size_t count)
{
    pthread_attr_t small;
    pthread_t thread;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    pthread_attr_setguardsize(&small, 0);
    for (size_t i = 0; i < count; i++)
        if ((errno = pthread_create(&thread, &small, reader, path)))
            die("threads: expected all, got", i);
    printf("started %zu\n", count);
    fflush(stdout);
    alarm(0);
    pause();
}

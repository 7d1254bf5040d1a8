/* Counts and times fsync and fdatasync, and makes each one longer.
 *
 * LD_PRELOAD this; BENCH_SYNC_BOOK is a file of 16 bytes: how many, how many nanoseconds.
 * BENCH_SYNC_DELAY_US is slept in addition to the real sync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static struct timespec delay;
static uint64_t *book;

__attribute__((constructor)) static void begin(void)
{
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *wanted = getenv("BENCH_SYNC_DELAY_US");
    long us = wanted ? atol(wanted) : 0;
    delay.tv_sec = us / 1000000;
    delay.tv_nsec = us % 1000000 * 1000;
    const char *path = getenv("BENCH_SYNC_BOOK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *map = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        book = map == MAP_FAILED ? NULL : map;
        close(file);
    }
}

static int sync_file(int (*real)(int), int file)
{
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    int result = real(file);
    int error = errno;
    struct timespec left = delay;
    while ((left.tv_sec || left.tv_nsec) && nanosleep(&left, &left) && errno == EINTR)
        ;
    clock_gettime(CLOCK_MONOTONIC, &after);
    if (book) {
        int64_t ns = (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec;
        __atomic_fetch_add(&book[0], 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&book[1], (uint64_t)ns, __ATOMIC_RELAXED);
    }
    errno = error;
    return result;
}

int fsync(int file) { return sync_file(real_fsync, file); }
int fdatasync(int file) { return sync_file(real_fdatasync, file); }

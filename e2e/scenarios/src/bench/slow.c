/*
 * Makes the file operations of one program slow, as a distant NFS server would; loaded by LD_PRELOAD.
 *
 * The file named by BERTH_SLOW_CONTROL is mapped: its first word is the delay in nanoseconds (0: none, and nothing is
 * counted), the words after it count the delayed calls by kind. Who wrote the file can change the delay and read the
 * counts at any time. What would need an answer of a server is delayed, once per answer: directory entries come many to
 * an answer, so only the call that fetches the next lot of them is slow.
 *
 * It sees what goes through the C library's functions, among them syscall(). Reading and writing files is not slowed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The order of the counts in the control file. */
enum kind { OPEN, STAT, ENTRIES, REMOVE, RENAME, MAKE, KINDS };

struct control {
    uint64_t delay_ns;
    uint64_t counts[KINDS];
};

static struct control *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("BERTH_SLOW_CONTROL");
    if (path == NULL) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "slow file operations: cannot map %s\n", path);
        _exit(125);
    }
    close(fd);
    control = at;
}

/* errno is what the program's own calls left in it. */
static void delay(enum kind kind) {
    if (control == NULL) return;
    uint64_t ns = __atomic_load_n(&control->delay_ns, __ATOMIC_RELAXED);
    if (ns == 0) return;
    __atomic_fetch_add(&control->counts[kind], 1, __ATOMIC_RELAXED);
    int before = errno;
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    errno = before;
}

/* The next function of this name: the C library's own. */
#define NEXT(name)                                                                      \
    static __typeof__(name) *next;                                                      \
    __typeof__(name) *found = __atomic_load_n(&next, __ATOMIC_RELAXED);                 \
    if (found == NULL) {                                                                \
        found = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                            \
        __atomic_store_n(&next, found, __ATOMIC_RELAXED);                               \
    }

static mode_t mode_argument(int flags, va_list arguments) {
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? (mode_t)va_arg(arguments, int) : 0;
}

#define OPENS(name)                                                                     \
    int name(const char *path, int flags, ...) {                                        \
        NEXT(name);                                                                     \
        va_list arguments;                                                              \
        va_start(arguments, flags);                                                     \
        mode_t mode = mode_argument(flags, arguments);                                  \
        va_end(arguments);                                                              \
        delay(OPEN);                                                                    \
        return found(path, flags, mode);                                                \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                  \
    int name(int dir, const char *path, int flags, ...) {                               \
        NEXT(name);                                                                     \
        va_list arguments;                                                              \
        va_start(arguments, flags);                                                     \
        mode_t mode = mode_argument(flags, arguments);                                  \
        va_end(arguments);                                                              \
        delay(OPEN);                                                                    \
        return found(dir, path, flags, mode);                                           \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

#define CALLS(kind, type, name, parameters, arguments)                                  \
    type name parameters {                                                              \
        NEXT(name);                                                                     \
        delay(kind);                                                                    \
        return found arguments;                                                         \
    }
CALLS(OPEN, DIR *, opendir, (const char *path), (path))
CALLS(STAT, int, stat, (const char *path, struct stat *into), (path, into))
CALLS(STAT, int, stat64, (const char *path, struct stat64 *into), (path, into))
CALLS(STAT, int, lstat, (const char *path, struct stat *into), (path, into))
CALLS(STAT, int, lstat64, (const char *path, struct stat64 *into), (path, into))
CALLS(STAT, int, fstatat, (int dir, const char *path, struct stat *into, int flags), (dir, path, into, flags))
CALLS(STAT, int, fstatat64, (int dir, const char *path, struct stat64 *into, int flags), (dir, path, into, flags))
CALLS(STAT, int, statx, (int dir, const char *path, int flags, unsigned mask, struct statx *into),
      (dir, path, flags, mask, into))
CALLS(REMOVE, int, unlink, (const char *path), (path))
CALLS(REMOVE, int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
CALLS(REMOVE, int, rmdir, (const char *path), (path))
CALLS(RENAME, int, rename, (const char *from, const char *to), (from, to))
CALLS(RENAME, int, renameat, (int dir, const char *from, int to_dir, const char *to), (dir, from, to_dir, to))
CALLS(RENAME, int, renameat2, (int dir, const char *from, int to_dir, const char *to, unsigned flags),
      (dir, from, to_dir, to, flags))
CALLS(MAKE, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALLS(MAKE, int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode))
CALLS(ENTRIES, ssize_t, getdents64, (int fd, void *into, size_t size), (fd, into, size))

/*
 * readdir() hands out entries of a buffer and fetches the next lot when that is used up. Each lot begins at the start of
 * the buffer, so an entry that lies no higher than the one before it is the first of a new lot.
 */
#define STREAMS 256
static struct {
    DIR *dir;
    const void *last;
} streams[STREAMS];
static int streams_lock;

static void fetched(DIR *dir, const void *entry) {
    if (control == NULL || __atomic_load_n(&control->delay_ns, __ATOMIC_RELAXED) == 0) return;
    int slow = 1;
    while (__atomic_exchange_n(&streams_lock, 1, __ATOMIC_ACQUIRE)) {
    }
    int at = -1, unused = -1;
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].dir == dir) at = i;
        if (streams[i].dir == NULL && unused < 0) unused = i;
    }
    if (at >= 0) slow = entry == NULL || entry <= streams[at].last;
    if (at < 0) at = unused;
    if (at >= 0) {
        streams[at].dir = entry == NULL ? NULL : dir;
        streams[at].last = entry;
    } else {
        slow = 0; /* More streams than there is room for: too fast rather than too slow. */
    }
    __atomic_store_n(&streams_lock, 0, __ATOMIC_RELEASE);
    if (slow) delay(ENTRIES);
}

#define READS(type, name)                                                               \
    type *name(DIR *dir) {                                                              \
        NEXT(name);                                                                     \
        type *entry = found(dir);                                                       \
        fetched(dir, entry);                                                            \
        return entry;                                                                   \
    }
READS(struct dirent, readdir)
READS(struct dirent64, readdir64)

int closedir(DIR *dir) {
    NEXT(closedir);
    while (__atomic_exchange_n(&streams_lock, 1, __ATOMIC_ACQUIRE)) {
    }
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].dir == dir) streams[i].dir = NULL;
    }
    __atomic_store_n(&streams_lock, 0, __ATOMIC_RELEASE);
    return found(dir);
}

long syscall(long number, ...) {
    NEXT(syscall);
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(arguments, long);
    va_end(arguments);
    switch (number) {
    case SYS_openat:
    case SYS_openat2: delay(OPEN); break;
    case SYS_statx:
#ifdef SYS_newfstatat
    case SYS_newfstatat:
#endif
        delay(STAT);
        break;
    case SYS_getdents64: delay(ENTRIES); break;
    case SYS_unlinkat: delay(REMOVE); break;
    case SYS_renameat2: delay(RENAME); break;
    case SYS_mkdirat: delay(MAKE); break;
    default: break;
    }
    return found(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Preloaded into a process: the n-th look at anything below a folder fails, by an errno of choice.

   Looks are opens that read, reads, stats, listings, links read, locks and mappings, of this process and of all that
   it starts: the count lies in a file that they share. HICCUP_STATE names that file, HICCUP_FOLDER the folder. What is
   told to `tell` is written there, a line each, and SIGUSR1 raised where somebody handles it: who looks, by Python's
   faulthandler. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
    int count;   /* looks so far */
    int fail_at; /* the one that fails; 0: none */
    int error;   /* by which errno */
    int lasting; /* whether all those after it fail, too */
    int fired;   /* times that one failed */
    int tell;    /* the file that is told of every look; 0: none. Of the process that armed it, and those it forks */
    char what[500];
};
static struct state *state;
static char folder[4096];
static size_t length;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("HICCUP_STATE"), *named = getenv("HICCUP_FOLDER");
    if (!file || !named || strlen(named) >= sizeof folder) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = (void *)syscall(SYS_mmap, NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at == MAP_FAILED) return;
    strcpy(folder, named);
    length = strlen(folder);
    state = at;
}

static int below(const char *path) {
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void tell(int number, const char *call, const char *path) {
    char line[4400], link[40], found[4096];
    int before = errno;
    /* Another program, started meanwhile, has something else by that number, or nothing. */
    snprintf(link, sizeof link, "/proc/self/fd/%d", state->tell);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, found, sizeof found - 1);
    if (size > 6 && memcmp(found + size - 6, ".looks", 6) == 0) {
        struct sigaction now;
        int n = snprintf(line, sizeof line, "LOOK %d %s %s\n", number, call, path);
        syscall(SYS_write, state->tell, line, n);
        if (sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN) raise(SIGUSR1);
    }
    errno = before;
}

/* Whether this look fails; path is absolute. */
static int fails(const char *call, const char *path) {
    if (!state || !below(path)) return 0;
    int number = __sync_add_and_fetch(&state->count, 1), at = state->fail_at;
    if (state->tell) tell(number, call, path + length);
    if (!at || (state->lasting ? number < at : number != at)) return 0;
    if (__sync_add_and_fetch(&state->fired, 1) == 1) snprintf(state->what, sizeof state->what, "%s %s", call, path + length);
    errno = state->error;
    return 1;
}

static int fails_at(const char *call, int dirfd, const char *path) {
    char whole[8192], base[4096], link[40];
    if (!state || !path) return 0;
    if (path[0] == '/') return fails(call, path);
    if (dirfd == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    if (size < 0) return 0;
    base[size] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return fails(call, whole);
}

static int fails_by(const char *call, int fd) {
    char path[4096], link[40];
    if (!state || fd < 0) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return fails(call, path);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define MODE(flags, last) int mode = 0; if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, last); mode = va_arg(a, int); va_end(a); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    MODE(flags, flags) \
    if ((flags & O_ACCMODE) != O_WRONLY && fails_at("open", AT_FDCWD, path)) return -1; \
    return REAL(name)(path, flags, mode); }
#define OPENAT(name) int name(int dirfd, const char *path, int flags, ...) { \
    MODE(flags, flags) \
    if ((flags & O_ACCMODE) != O_WRONLY && fails_at("open", dirfd, path)) return -1; \
    return REAL(name)(dirfd, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
    if (mode[0] == 'r' && fails_at("open", AT_FDCWD, path)) return NULL; \
    return REAL(name)(path, mode); }
FOPEN(fopen) FOPEN(fopen64)

ssize_t read(int fd, void *to, size_t n) { return fails_by("read", fd) ? -1 : REAL(read)(fd, to, n); }
ssize_t pread(int fd, void *to, size_t n, off_t at) { return fails_by("read", fd) ? -1 : REAL(pread)(fd, to, n, at); }
ssize_t pread64(int fd, void *to, size_t n, off64_t at) { return fails_by("read", fd) ? -1 : REAL(pread64)(fd, to, n, at); }
ssize_t readv(int fd, const struct iovec *to, int n) { return fails_by("read", fd) ? -1 : REAL(readv)(fd, to, n); }

#define STAT(name, type) int name(const char *path, struct type *to) { \
    return fails_at("stat", AT_FDCWD, path) ? -1 : REAL(name)(path, to); }
STAT(stat, stat) STAT(stat64, stat64) STAT(lstat, stat) STAT(lstat64, stat64)
int fstat(int fd, struct stat *to) { return fails_by("stat", fd) ? -1 : REAL(fstat)(fd, to); }
int fstat64(int fd, struct stat64 *to) { return fails_by("stat", fd) ? -1 : REAL(fstat64)(fd, to); }
int fstatat(int fd, const char *path, struct stat *to, int how) {
    return fails_at("stat", fd, path) ? -1 : REAL(fstatat)(fd, path, to, how); }
int fstatat64(int fd, const char *path, struct stat64 *to, int how) {
    return fails_at("stat", fd, path) ? -1 : REAL(fstatat64)(fd, path, to, how); }
int statx(int fd, const char *path, int how, unsigned mask, struct statx *to) {
    return (path[0] ? fails_at("stat", fd, path) : fails_by("stat", fd)) ? -1 : REAL(statx)(fd, path, how, mask, to); }
int access(const char *path, int how) { return fails_at("access", AT_FDCWD, path) ? -1 : REAL(access)(path, how); }
int faccessat(int fd, const char *path, int how, int flags) {
    return fails_at("access", fd, path) ? -1 : REAL(faccessat)(fd, path, how, flags); }
ssize_t readlink(const char *path, char *to, size_t n) {
    return fails_at("readlink", AT_FDCWD, path) ? -1 : REAL(readlink)(path, to, n); }
ssize_t readlinkat(int fd, const char *path, char *to, size_t n) {
    return fails_at("readlink", fd, path) ? -1 : REAL(readlinkat)(fd, path, to, n); }

DIR *opendir(const char *path) { return fails_at("list", AT_FDCWD, path) ? NULL : REAL(opendir)(path); }
DIR *fdopendir(int fd) { return fails_by("list", fd) ? NULL : REAL(fdopendir)(fd); }
struct dirent *readdir(DIR *of) { return fails_by("list", dirfd(of)) ? NULL : REAL(readdir)(of); }
struct dirent64 *readdir64(DIR *of) { return fails_by("list", dirfd(of)) ? NULL : REAL(readdir64)(of); }

int flock(int fd, int how) { return fails_by("flock", fd) ? -1 : REAL(flock)(fd, how); }
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) {
    return fails_by("mmap", fd) ? MAP_FAILED : (void *)syscall(SYS_mmap, at, n, prot, flags, fd, from); }
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off64_t from) {
    return fails_by("mmap", fd) ? MAP_FAILED : (void *)syscall(SYS_mmap, at, n, prot, flags, fd, from); }

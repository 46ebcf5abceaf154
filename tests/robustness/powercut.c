/* Records what a process writes below $POWERCUT_DIR, and what it made durable, into $POWERCUT_LOG.
 *
 * A write is recorded before it is done, a sync after it returned (with the number of records at its begin, for it covers no
 * later ones). Whoever replays the log up to the last syncs has the disk as a power cut may leave it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct record { uint32_t magic; uint32_t op; uint64_t offset; uint64_t length; uint64_t number; uint32_t path_length; uint32_t pad; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t count;
static int journal = -1;

static int path_of(int fd, char *path) {
    static const char *dir;
    char link[64];
    if (!dir && !(dir = getenv("POWERCUT_DIR"))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n <= 0) return 0;
    path[n] = 0;
    size_t m = strlen(dir);
    return !strncmp(path, dir, m) && !strstr(path, "-shm") && !strstr(path, "(deleted)");
}

static void note(uint32_t op, const char *path, uint64_t offset, uint64_t length, uint64_t number, const void *data) {
    int saved = errno;
    pthread_mutex_lock(&lock);
    if (journal < 0) journal = open(getenv("POWERCUT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct record r = {0x50435554, op, offset, length, number, (uint32_t)strlen(path), 0};
    struct iovec parts[3] = {{&r, sizeof r}, {(void *)path, r.path_length}, {(void *)data, data ? length : 0}};
    if (writev(journal, parts, 3) < 0) abort();
    count++;
    pthread_mutex_unlock(&lock);
    errno = saved;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    REAL(pwrite64);
    char path[4096];
    if (path_of(fd, path)) note('W', path, offset, n, 0, data);
    return real(fd, data, n, offset);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) { return pwrite64(fd, data, n, offset); }

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    char path[4096];
    if (path_of(fd, path)) note('T', path, length, 0, 0, NULL);
    return real(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int unlink(const char *path) {
    REAL(unlink);
    const char *dir = getenv("POWERCUT_DIR");
    if (dir && !strncmp(path, dir, strlen(dir)) && !strstr(path, "-shm")) note('U', path, 0, 0, 0, NULL);
    return real(path);
}

static int synced(int fd, int (*real)(int)) {
    char path[4096];
    int ours = path_of(fd, path);
    pthread_mutex_lock(&lock);
    uint64_t begin = count;
    pthread_mutex_unlock(&lock);
    int result = real(fd);
    if (ours && !result) note('S', path, 0, 0, begin, NULL);
    return result;
}

int fsync(int fd) { REAL(fsync); return synced(fd, real); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd, real); }

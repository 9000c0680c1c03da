/* Makes a system call fail, or kills the process at it: each one that changes files below given folders, in turn.

   A seccomp filter traps the calls, whoever makes them: Python, libc's streams, C++, HDF5, Rust. The handler counts those
   that concern the folders, writes each down, and makes it itself, by the one instruction that the filter lets pass.
   Linux on x86-64. Not seen are writes to memory that maps a file, io_uring, and what other programs do that are started
   (which a trapped call ends). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <ucontext.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "of x86-64"
#endif

enum fault { NONE, NO_SPACE, IO_ERROR, INTERRUPTED, KILLED, SHORT };
enum how { PATH, PATH_AT, FD, TO_FD, TWO_PATHS, TWO_PATHS_AT, CLOSE, OPEN, OPEN_AT };

static const struct call {
    int number;
    const char *name;
    enum how how;
    int takes_space; /* what a full disk refuses */
} calls[] = {
    {SYS_write, "write", FD, 1},          {SYS_pwrite64, "write", FD, 1},
    {SYS_writev, "write", FD, 1},         {SYS_pwritev, "write", FD, 1},
    {SYS_sendfile, "write", FD, 1},       {SYS_copy_file_range, "write", TO_FD, 1},
    {SYS_ftruncate, "truncate", FD, 1},   {SYS_fallocate, "truncate", FD, 1},
    {SYS_truncate, "truncate", PATH, 1},  {SYS_fsync, "fsync", FD, 1},
    {SYS_fdatasync, "fsync", FD, 1},      {SYS_rename, "rename", TWO_PATHS, 1},
    {SYS_renameat, "rename", TWO_PATHS_AT, 1},  {SYS_renameat2, "rename", TWO_PATHS_AT, 1},
    {SYS_link, "link", TWO_PATHS, 1},     {SYS_linkat, "link", TWO_PATHS_AT, 1},
    {SYS_symlinkat, "link", PATH_AT, 1},  {SYS_mkdir, "mkdir", PATH, 1},
    {SYS_mkdirat, "mkdir", PATH_AT, 1},   {SYS_rmdir, "unlink", PATH, 0},
    {SYS_unlink, "unlink", PATH, 0},      {SYS_unlinkat, "unlink", PATH_AT, 0},
    {SYS_chmod, "chmod", PATH, 0},        {SYS_fchmodat, "chmod", PATH_AT, 0},
    {SYS_fchmod, "chmod", FD, 0},         {SYS_close, "close", CLOSE, 0},
    {SYS_creat, "open", PATH, 1},         {SYS_open, "open", OPEN, 1},
    {SYS_openat, "open", OPEN_AT, 1},
};
#define CALLS (sizeof calls / sizeof *calls)

static char folder[4096];
static size_t folder_length;
static long nth, seen;
static int log_to;
static enum fault fault;

long power_call(long number, long a, long b, long c, long d, long e, long f);
extern char power_called[];
__asm__(".text\n.globl power_call\npower_call:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\nmov 8(%rsp), %r9\n"
        "syscall\n.globl power_called\npower_called:\nret\n");

static size_t link_of(const char *link, char *to) {
    long n = power_call(SYS_readlink, (long)link, (long)to, 4095, 0, 0, 0);
    to[n < 0 ? 0 : n] = 0;
    return n < 0 ? 0 : (size_t)n;
}

static size_t of_descriptor(long fd, char *to) {
    char link[40] = "/proc/self/cwd", digits[20];
    if ((int)fd != AT_FDCWD) {
        int n = 0;
        char *end = link + strlen(strcpy(link, "/proc/self/fd/"));
        do digits[n++] = '0' + fd % 10;
        while (fd /= 10);
        while (n) *end++ = digits[--n];
        *end = 0;
    }
    return link_of(link, to);
}

static void of_path(long fd, const char *path, char *to) {
    size_t n = *path == '/' ? 0 : of_descriptor(fd, to);
    if (*path != '/') to[n++] = '/';
    strncpy(to + n, path, 4095 - n);
    to[4095] = 0;
}

static int below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || !path[folder_length]);
}

static void put(const char *text) { power_call(SYS_write, log_to, (long)text, (long)strlen(text), 0, 0, 0); }

static void handle(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long number = info->si_syscall, a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    const struct call *call = calls;
    while (call->number != number) call++;
    char one[4096] = "", two[4096] = "";
    int opening = call->how == OPEN || call->how == OPEN_AT;
    switch (call->how) {
    case PATH: case OPEN: of_path(AT_FDCWD, (char *)a[0], one); break;
    case PATH_AT: case OPEN_AT: of_path(a[0], (char *)a[1], one); break;
    case FD: case CLOSE: of_descriptor(a[0], one); break;
    case TO_FD: of_descriptor(a[2], one); break;
    case TWO_PATHS: of_path(AT_FDCWD, (char *)a[0], one), of_path(AT_FDCWD, (char *)a[1], two); break;
    case TWO_PATHS_AT: of_path(a[0], (char *)a[1], one), of_path(a[2], (char *)a[3], two); break;
    }
    int counts = below(one) || (*two && below(two));
    if (counts && opening) counts = (a[call->how == OPEN ? 1 : 2] & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0;
    if (counts && call->how == CLOSE)
        counts = (power_call(SYS_fcntl, a[0], F_GETFL, 0, 0, 0, 0) & O_ACCMODE) != O_RDONLY;
    long error = 0;
    if (counts) {
        long mine = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
        int now = mine == nth;
        if (now && fault == KILLED)
            power_call(SYS_kill, power_call(SYS_getpid, 0, 0, 0, 0, 0, 0), SIGKILL, 0, 0, 0, 0);
        else if (now && fault == IO_ERROR) error = EIO;
        else if (now && fault == INTERRUPTED) error = EINTR;
        else if (nth && mine >= nth && fault == NO_SPACE && call->takes_space) error = ENOSPC; /* and it stays full */
        else if (now && fault == SHORT && number != SYS_writev && number != SYS_pwritev && !strcmp(call->name, "write")) {
            int size = number == SYS_sendfile ? 3 : number == SYS_copy_file_range ? 4 : 2;
            if (a[size] > 1) a[size] /= 2;
        }
    }
    char line[8300];
    if (error && call->how != CLOSE)
        r[REG_RAX] = -error;
    else {
        r[REG_RAX] = power_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (error) r[REG_RAX] = -error; /* a close that fails has closed */
    }
    if (counts) {
        strcpy(line, call->name), strcat(line, "\t"), strcat(line, one), strcat(line, "\t"), strcat(line, two);
        put(strcat(line, r[REG_RAX] < 0 ? "\tfailed\n" : "\t\n"));
    }
}

/* From here on, in this process: the nth call from 1 that concerns a folder has a fault, none for 0; lines
   "call TAB path TAB other path TAB failed" go to a descriptor. 0, or an errno. */
int power_arm(const char *below_folder, long at, int what, int descriptor) {
    strncpy(folder, below_folder, sizeof folder - 1);
    folder_length = strlen(folder), nth = at, fault = what, log_to = descriptor, seen = 0;
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGSYS, &action, 0)) return errno;
    struct sock_filter filter[2 * CALLS + 10], *p = filter;
    uint64_t own = (uint64_t)(uintptr_t)power_called;
#define LOAD(field, more) (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + more)
    *p++ = LOAD(instruction_pointer, 0);
    *p++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)own, 0, 3);
    *p++ = LOAD(instruction_pointer, 4);
    *p++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(own >> 32), 0, 1);
    *p++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *p++ = LOAD(nr, 0);
    for (size_t i = 0; i < CALLS; i++) {
        *p++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i].number, 0, 1);
        *p++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    }
    *p++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)(p - filter), filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) ? errno : 0;
}

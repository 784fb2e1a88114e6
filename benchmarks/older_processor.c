/* Makes a processor look like one with AVX2 and nothing newer, to the program that loads it with LD_PRELOAD.
 *
 * Every library then runs the code that it would run there. Linux lets CPUID fault (arch_prctl; processors with
 * `cpuid_fault` in /proc/cpuinfo): the handler answers it without the newer instructions, which are left out of
 * /proc/cpuinfo too. Handlers that the program installs for SIGSEGV get all other faults. Threads and forks
 * inherit the setting; a program that is executed loads this library again.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { kSetCpuid = 0x1012 };

/* leaf 7: AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS,
 * VP2INTERSECT, AMX, FP16 */
static const unsigned kEbx = 0xdc230000u, kEcx = 0x00005842u, kEdx = 0x03c0010cu;
/* its subleaf 1: AVX-VNNI, BF16, AMX-FP16, AVX-IFMA; VNNI of 8 and 16 bits, NE-CONVERT, AMX-COMPLEX, AVX10 */
static const unsigned kEax1 = 0x00a00030u, kEdx1 = 0x00080530u;
static const char *const kNewer[] = {"avx512", "avx_vnni", "avx_ifma", "amx", "avx10"};

static struct sigaction theirs;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void allow_cpuid(int is_allowed) {
  if (syscall(SYS_arch_prctl, kSetCpuid, (long)is_allowed) == 0) return;
  static const char message[] = "older_processor: CPUID cannot be made to fault here\n";
  if (write(2, message, sizeof message - 1)) _exit(1);
}

static void answer(greg_t *registers) {
  unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX];
  unsigned a, b, c, d;
  allow_cpuid(1);
  __cpuid_count(leaf, subleaf, a, b, c, d);
  allow_cpuid(0);
  if (leaf == 7 && subleaf == 0) b &= ~kEbx, c &= ~kEcx, d &= ~kEdx;
  if (leaf == 7 && subleaf == 1) a &= ~kEax1, d &= ~kEdx1;
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2; /* the length of CPUID */
}

static void on_fault(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  /* the kernel sends it for CPUID without an address */
  if (info->si_code == SI_KERNEL && memcmp((void *)registers[REG_RIP], "\x0f\xa2", 2) == 0) {
    answer(registers);
  } else if (theirs.sa_flags & SA_SIGINFO) {
    theirs.sa_sigaction(number, info, context);
  } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
    theirs.sa_handler(number);
  } else { /* the instruction faults once more, and ends the process */
    real_sigaction(SIGSEGV, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  }
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
  if (!real_sigaction) *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
  if (number != SIGSEGV) return real_sigaction(number, wanted, before);
  if (before) *before = theirs;
  if (wanted) theirs = *wanted;
  return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction wanted = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  return sigaction(number, &wanted, &before) ? SIG_ERR : before.sa_handler;
}

/* Return a descriptor of /proc/cpuinfo without the newer instructions. */
static int open_cpuinfo(void) {
  static char text[1 << 22];
  int source = (int)syscall(SYS_openat, AT_FDCWD, "/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
  int target = memfd_create("cpuinfo", MFD_CLOEXEC);
  ssize_t length = 0, more;
  while ((more = read(source, text + length, sizeof text - 1 - (size_t)length)) > 0) length += more;
  close(source);
  text[length] = 0;
  for (size_t i = 0; i < sizeof kNewer / sizeof *kNewer; ++i)
    for (char *word = text; (word = strstr(word, kNewer[i]));)
      while (*word > ' ') *word++ = ' ';
  if (write(target, text, (size_t)length) != length) _exit(1);
  lseek(target, 0, SEEK_SET);
  return target;
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  int mode = va_arg(rest, int);
  va_end(rest);
  if (strcmp(path, "/proc/cpuinfo") == 0) return open_cpuinfo();
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

__attribute__((constructor)) static void start(void) {
  struct sigaction own = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
  real_sigaction(SIGSEGV, &own, &theirs);
  allow_cpuid(0);
}

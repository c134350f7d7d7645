/*
 * The server of drills: what it says shows whether anything of this guest was lost or came twice. One line in, one line out,
 * many connections at a time, one after the other:
 *   count      count CONNECTION ALL BOOT   how often this connection has asked, and all of them: both only in memory
 *   write N    written N                   4 KiB of N in its place on the disk, synced
 *   read N     read N FOUND                FOUND: the number that is in its place; 0: none, or damaged
 *   memory     memory ok | memory bad      32 MiB, written at the beginning; a piece of them anew with each question
 *   echo TEXT  echo TEXT
 *   bulk N     bulk N, and then N bytes
 *   spin MS    spin LOOPS                  how often it got round in so many ms, alone
 *
 * serve PORT DEVICE BYTES: what is written lies behind so many bytes of the device.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { clients_max = 64, line_max = 256, page = 4096, places = 1024, words = 8 << 20, pieces = 64, bulk_max = 256 << 20 };
struct client { char line[line_max]; int used; long asked; };

static struct pollfd fds[clients_max + 1];
static struct client clients[clients_max + 1];
static char boot[64];
static long all;
static uint32_t *memory, seeds[pieces];
static int disk;
static off_t begin;
static uint32_t block[page / 4] __attribute__((aligned(4096)));

static void fill(int i, uint32_t seed) {
  seeds[i] = seed;
  for (uint32_t *p = memory + i * (words / pieces), k = 0; k < words / pieces; k++) p[k] = seed + k * 2654435761u;
}
static int good(int i) {
  for (uint32_t *p = memory + i * (words / pieces), k = 0; k < words / pieces; k++) if (p[k] != seeds[i] + k * 2654435761u) return 0;
  return 1;
}
static off_t place(long n) { return begin + (off_t)(n % places) * page; }
static void pattern(uint32_t n) { for (int k = 0; k < page / 4; k++) block[k] = k ? n * 2246822519u + k : n; }

static long written(long n) {
  if (pread(disk, block, page, place(n)) != page) return 0;
  uint32_t found = block[0];
  for (int k = 1; k < page / 4; k++) if (block[k] != found * 2246822519u + k) return 0;
  return found;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }

static void answer(struct client *c, int fd, const char *ask) {
  char out[line_max + 64];
  long n = 0;
  int bulk = 0;
  if (!strcmp(ask, "count")) snprintf(out, sizeof out, "count %ld %ld %s\n", ++c->asked, ++all, boot);
  else if (sscanf(ask, "write %ld", &n) == 1 && n > 0) {
    pattern((uint32_t)n);
    int ok = pwrite(disk, block, page, place(n)) == page && fdatasync(disk) == 0;
    snprintf(out, sizeof out, ok ? "written %ld\n" : "failed %ld\n", n);
  } else if (sscanf(ask, "read %ld", &n) == 1 && n > 0) snprintf(out, sizeof out, "read %ld %ld\n", n, written(n));
  else if (!strcmp(ask, "memory")) {
    static int turn;
    int ok = 1;
    for (int i = 0; i < pieces && ok; i++) ok = good(i);
    fill(turn % pieces, (uint32_t)turn * 40503u + 7);
    turn++;
    snprintf(out, sizeof out, "memory %s\n", ok ? "ok" : "bad");
  } else if (!strncmp(ask, "echo ", 5)) snprintf(out, sizeof out, "%s\n", ask);
  else if (sscanf(ask, "bulk %ld", &n) == 1 && n > 0 && n <= bulk_max) { bulk = 1; snprintf(out, sizeof out, "bulk %ld\n", n); }
  else if (sscanf(ask, "spin %ld", &n) == 1 && n > 0 && n <= 10000) {
    long loops = 0;
    for (double end = now() + n; now() < end; loops++) for (volatile int k = 0; k < 10000; k++);
    snprintf(out, sizeof out, "spin %ld\n", loops);
  } else snprintf(out, sizeof out, "what\n");
  for (size_t at = 0, size = strlen(out); at < size;) {
    ssize_t w = send(fd, out + at, size - at, MSG_NOSIGNAL);
    if (w < 0 && errno != EINTR) return;
    if (w > 0) at += (size_t)w;
  }
  static char zeros[65536];
  while (bulk && n > 0) {
    ssize_t w = send(fd, zeros, n < (long)sizeof zeros ? (size_t)n : sizeof zeros, MSG_NOSIGNAL);
    if (w < 0 && errno != EINTR) return;
    if (w > 0) n -= w;
  }
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  signal(SIGPIPE, SIG_IGN);
  int f = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
  if (f < 0 || read(f, boot, 36) != 36) return 1;
  disk = open(argv[2], O_RDWR | O_DIRECT);
  begin = atoll(argv[3]);
  memory = malloc((size_t)words * 4);
  if (disk < 0 || !memory) return 1;
  for (int i = 0; i < pieces; i++) fill(i, (uint32_t)i + 1);
  int one = 1, ear = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(ear, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  if (bind(ear, (struct sockaddr *)&at, sizeof at) || listen(ear, 16)) return 1;
  for (int i = 0; i <= clients_max; i++) fds[i] = (struct pollfd){-1, POLLIN, 0};
  fds[0].fd = ear;
  printf("TINY serves %s\n", boot);
  fflush(stdout);
  while (poll(fds, clients_max + 1, -1) > 0 || errno == EINTR) {
    for (int i = 1; i <= clients_max; i++) {
      struct client *c = &clients[i];
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      ssize_t got = read(fds[i].fd, c->line + c->used, (size_t)(line_max - 1 - c->used));
      if (got <= 0 || c->used + got >= line_max - 1) { close(fds[i].fd); fds[i].fd = -1; continue; }
      c->used += (int)got;
      for (char *end; (end = memchr(c->line, '\n', (size_t)c->used));) {
        *end = 0;
        answer(c, fds[i].fd, c->line);
        c->used -= (int)(end + 1 - c->line);
        memmove(c->line, end + 1, (size_t)c->used);
      }
    }
    if (!fds[0].revents) continue;
    int fd = accept(ear, 0, 0), i = 1;
    while (i <= clients_max && fds[i].fd >= 0) i++;
    if (fd < 0 || i > clients_max) { if (fd >= 0) close(fd); continue; }
    fds[i].fd = fd;
    clients[i] = (struct client){0};
  }
  return 1;
}

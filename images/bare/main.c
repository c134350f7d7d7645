/*
 * A guest without an operating system, for machines that are emulated in emulated machines: there a Linux takes more than a
 * minute to boot, this a few seconds. It counts on its disk, flushes, and only then tells the witness outside, by broadcast;
 * checks what it wrote before, on disk and in memory; obeys the power button. A PC (q35, BIOS), virtio disk and card.
 *
 * What it says, on the serial line and as UDP to 255.255.255.255:8099, one word line each:
 *   found VM BOOT N      the count on its disk when it began
 *   count VM BOOT N      N is on the disk, flushed
 *   bad VM BOOT N WHAT   memory or disk do not hold what was written
 *
 * Virtio 1.2: 4.1 (PCI), 5.2 (block), 5.1 (network). ICH9: power management at 0x600, as SeaBIOS puts it.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outw(u16 port, u16 v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 clock_cycles(void) { u32 lo, hi; __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)); return (u64)hi << 32 | lo; }
static inline void barrier(void) { __asm__ volatile("mfence" : : : "memory"); }

void *memset(void *to, int v, u32 n) { u8 *p = to; while (n--) *p++ = (u8)v; return to; }
void *memcpy(void *to, const void *from, u32 n) { u8 *p = to; const u8 *q = from; while (n--) *p++ = *q++; return to; }

/* ---- time: 18.2 ticks a second would be the BIOS's; 20 here */

volatile u32 ticks;
extern void tick(void);
static struct { u16 low, selector, flags, high; } __attribute__((packed)) gates[64];

static void start_clock(void) {
  u32 at = (u32)tick;
  gates[32].low = (u16)at;
  gates[32].selector = 8;
  gates[32].flags = 0x8e00;
  gates[32].high = (u16)(at >> 16);
  struct { u16 limit; u32 base; } __attribute__((packed)) pointer = {sizeof gates - 1, (u32)gates};
  __asm__ volatile("lidt %0" : : "m"(pointer));
  const u8 words[][2] = {{0x20, 0x11}, {0x21, 32}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11}, {0xa1, 40}, {0xa1, 2}, {0xa1, 1}, {0x21, 0xfe}, {0xa1, 0xff}};
  for (u32 i = 0; i < sizeof words / 2; i++) outb(words[i][0], words[i][1]);
  u16 divisor = 1193182 / 20;
  outb(0x43, 0x34);
  outb(0x40, (u8)divisor);
  outb(0x40, (u8)(divisor >> 8));
  __asm__ volatile("sti");
}

/* ---- words */

static char line[160];
static u32 length;

static void put(const char *s) { while (*s && length < sizeof line - 1) line[length++] = *s++; }
static void put_hex(u32 v, u32 digits) {
  while (digits--) { char c[2] = {"0123456789abcdef"[v >> (digits * 4) & 15], 0}; put(c); }
}
static void put_number(u32 v) {
  char text[11];
  u32 i = 10;
  text[10] = 0;
  do text[--i] = (char)('0' + v % 10); while (v /= 10);
  put(text + i);
}
static void print_line(void) {
  for (u32 i = 0; i < length; i++) { while (!(inb(0x3fd) & 0x20)); outb(0x3f8, (u8)line[i]); }
  outb(0x3f8, '\r');
  outb(0x3f8, '\n');
}
static void stop(const char *why) {
  length = 0;
  put("BARE stops: ");
  put(why);
  print_line();
  for (;;) __asm__ volatile("cli; hlt");
}

/* ---- PCI */

static u32 pci_read(u32 device, u32 at) { outl(0xcf8, 0x80000000u | device << 8 | (at & 0xfc)); return inl(0xcfc); }
static void pci_write(u32 device, u32 at, u32 v) { outl(0xcf8, 0x80000000u | device << 8 | (at & 0xfc)); outl(0xcfc, v); }
static u32 pci_byte(u32 device, u32 at) { return pci_read(device, at) >> (at & 3) * 8 & 0xff; }

/* Bus, slot and function of the first device of these ids, on this bus or behind it; 0: none. */
static u32 find(u32 bus, u32 modern, u32 transitional) {
  for (u32 slot = 0; slot < 32; slot++) {
    u32 functions = 1;
    for (u32 f = 0; f < functions; f++) {
      u32 device = bus << 8 | slot << 3 | f;
      u32 id = pci_read(device, 0);
      if ((id & 0xffff) == 0xffff) continue;
      if (f == 0 && pci_byte(device, 0x0e) & 0x80) functions = 8;
      if (id == (modern << 16 | 0x1af4) || id == (transitional << 16 | 0x1af4)) return device;
      u32 behind = pci_byte(device, 0x19);
      if ((pci_byte(device, 0x0e) & 0x7f) == 1 && behind > bus) {
        u32 found = find(behind, modern, transitional);
        if (found) return found;
      }
    }
  }
  return 0;
}

/* ---- virtio */

enum { queue_size = 8 };
struct queue {
  struct { u64 address; u32 length; u16 flags, next; } table[queue_size];
  struct { u16 flags, index, ring[queue_size], event; } offered;
  struct { u16 flags, index; struct { u32 id, length; } ring[queue_size]; u16 event; } used __attribute__((aligned(4)));
} __attribute__((aligned(4096)));
struct device { volatile u8 *common, *notify, *own; u32 notify_step; };

static volatile u8 *capability(u32 device, u32 kind, u32 *extra) {
  for (u32 at = pci_byte(device, 0x34); at; at = pci_byte(device, at + 1)) {
    if (pci_byte(device, at) != 9 || pci_byte(device, at + 3) != kind) continue;
    u32 bar = 0x10 + pci_byte(device, at + 4) * 4;
    u32 base = pci_read(device, bar);
    if ((base & 6) == 4 && pci_read(device, bar + 4)) stop("a device above 4 GiB");
    if (extra) *extra = pci_read(device, at + 16);
    return (volatile u8 *)((base & ~15u) + pci_read(device, at + 8));
  }
  return 0;
}

#define common8(d, at) (*(volatile u8 *)((d)->common + (at)))
#define common16(d, at) (*(volatile u16 *)((d)->common + (at)))
#define common32(d, at) (*(volatile u32 *)((d)->common + (at)))

static void start_device(struct device *d, u32 pci, u32 features) {
  pci_write(pci, 4, pci_read(pci, 4) | 6);
  d->common = capability(pci, 1, 0);
  d->notify = capability(pci, 2, &d->notify_step);
  d->own = capability(pci, 4, 0);
  if (!d->common || !d->notify || !d->own) stop("a device that is not virtio 1");
  common8(d, 20) = 0;
  while (common8(d, 20));
  common8(d, 20) = 3;
  common32(d, 0) = 0;
  u32 offered = common32(d, 4);
  common32(d, 8) = 0;
  common32(d, 12) = offered & features;
  common32(d, 8) = 1;
  common32(d, 12) = 1;
  common8(d, 20) = 11;
  if (!(common8(d, 20) & 8)) stop("a device that refuses virtio 1");
}

static void start_queue(struct device *d, struct queue *q, u16 number) {
  common16(d, 22) = number;
  common16(d, 24) = queue_size;
  common32(d, 32) = (u32)q->table;
  common32(d, 36) = 0;
  common32(d, 40) = (u32)&q->offered;
  common32(d, 44) = 0;
  common32(d, 48) = (u32)&q->used;
  common32(d, 52) = 0;
  common16(d, 28) = 1;
}

/* Offers the chain that begins with entry 0, and waits until the device has done it. */
static void submit(struct device *d, struct queue *q, u16 number) {
  q->offered.flags = 1;
  q->offered.ring[q->offered.index % queue_size] = 0;
  barrier();
  q->offered.index++;
  barrier();
  common16(d, 22) = number;
  *(volatile u16 *)(d->notify + common16(d, 30) * d->notify_step) = number;
  /* It mostly has at once. Else the clock wakes: the device's own interrupt is not used. */
  for (u32 i = 0; *(volatile u16 *)&q->used.index != q->offered.index; i++) if (i > 20000) __asm__ volatile("sti; hlt");
}

/* ---- disk */

static struct device disk;
static struct queue disk_queue;
static struct { u32 type, reserved; u64 sector; } head;
static volatile u8 status;
enum { disk_in = 0, disk_out = 1, disk_flush = 4 };

/* An error of the disk is tried again for ever: what was not acknowledged is not told. */
static void disk_do(u32 type, u32 sector, void *data, u32 bytes) {
  for (;;) {
    head.type = type;
    head.sector = sector;
    status = 255;
    u32 n = 0;
    disk_queue.table[n] = (typeof(disk_queue.table[0])){(u32)&head, sizeof head, 1, 1};
    if (bytes) { n++; disk_queue.table[n] = (typeof(disk_queue.table[0])){(u32)data, bytes, (u16)(1 | (type == disk_in ? 2 : 0)), (u16)(n + 1)}; }
    n++;
    disk_queue.table[n] = (typeof(disk_queue.table[0])){(u32)&status, 1, 2, 0};
    submit(&disk, &disk_queue, 0);
    if (status == 0) return;
    length = 0;
    put("BARE disk error ");
    put_number(status);
    print_line();
    u32 until = ticks + 10;
    while ((int)(ticks - until) < 0) __asm__ volatile("sti; hlt");
  }
}

/* The count lives in a ring of slots, a sector each, so that a write never touches the one before. */
enum { slots = 64, first_slot = 256, magic = 0x46424152 };
struct slot { u32 magic, n, inverse, fill[125]; };
static struct slot ring[slots];

static void fill_slot(struct slot *s, u32 n) {
  s->magic = magic;
  s->n = n;
  s->inverse = ~n;
  for (u32 i = 0; i < 125; i++) s->fill[i] = n * 2654435761u + i;
}
static int slot_good(const struct slot *s) {
  if (s->magic != magic || s->inverse != ~s->n) return 0;
  for (u32 i = 0; i < 125; i++) if (s->fill[i] != s->n * 2654435761u + i) return 0;
  return 1;
}

/* ---- network */

static struct device card;
static struct queue card_queue;
static u8 frame[12 + 42 + sizeof line];
static int has_card;

static void put16(u8 *at, u32 v) { at[0] = (u8)(v >> 8); at[1] = (u8)v; }

static void broadcast(void) {
  u8 *ether = frame + 12, *ip = ether + 14, *udp = ip + 20;
  memset(frame, 0, 12 + 42);
  memset(ether, 255, 6);
  for (u32 i = 0; i < 6; i++) ether[6 + i] = card.own[i];
  put16(ether + 12, 0x0800);
  ip[0] = 0x45;
  put16(ip + 2, 28 + length);
  ip[8] = 64;
  ip[9] = 17;
  memset(ip + 16, 255, 4);
  u32 sum = 0;
  for (u32 i = 0; i < 20; i += 2) sum += (u32)(ip[i] << 8 | ip[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  put16(ip + 10, ~sum);
  put16(udp, 8099);
  put16(udp + 2, 8099);
  put16(udp + 4, 8 + length);
  memcpy(udp + 8, line, length);
  card_queue.table[0] = (typeof(card_queue.table[0])){(u32)frame, 12 + 42 + length, 0, 0};
  submit(&card, &card_queue, 1);
}

/* ---- who it is */

static u8 uuid[16];
static u32 boot[2];

static void find_uuid(void) {
  u32 table = 0, bytes = 0;
  for (u8 *p = (u8 *)0xf0000; p < (u8 *)0xfffe0; p += 16) {
    if (*(u32 *)p == 0x5f4d535f) { table = *(u32 *)(p + 0x18); bytes = *(u16 *)(p + 0x16); }
    if (*(u32 *)p == 0x334d535f && p[4] == '_') { table = *(u32 *)(p + 0x10); bytes = *(u32 *)(p + 0x0c); }
  }
  for (u8 *p = (u8 *)table, *end = p + bytes; table && p + 4 < end;) {
    if (p[0] == 1) { memcpy(uuid, p + 8, 16); return; }
    for (p += p[1]; p + 1 < end && (p[0] || p[1]); p++);
    p += 2;
  }
}
static void put_uuid(void) {
  static const u8 order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  for (u32 i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) put("-");
    put_hex(uuid[order[i]], 2);
  }
}
static u32 mix(u32 a, u32 b) { a = (a ^ b) * 0x9e3779b1u; return a ^ a >> 15; }
/* What two boots, even at the same moment, do not have in common: cycles until here, and the wall clock. */
static void choose_boot(u32 n) {
  for (u32 i = 0; i < 2; i++) {
    u64 cycles = clock_cycles();
    boot[i] = mix(mix(mix((u32)cycles, (u32)(cycles >> 32)), n), boot[0]);
    for (u32 r = 0; r < 10; r++) { outb(0x70, (u8)r); boot[i] = mix(boot[i], inb(0x71)); }
  }
}

static void say(const char *word, u32 n, const char *more) {
  length = 0;
  put(word);
  put(" ");
  put_uuid();
  put(" ");
  put_hex(boot[0], 8);
  put_hex(boot[1], 8);
  put(" ");
  put_number(n);
  put(more);
  print_line();
  if (has_card) broadcast();
}

/* ---- memory: 8 MiB from 2 MiB on, a piece of it checked and written anew with each count */

enum { pieces = 128, piece_words = 16384 };
static u32 *piece(u32 i) { return (u32 *)0x200000 + i * piece_words; }
static u32 written[pieces];

static void fill_piece(u32 i, u32 seed) {
  written[i] = seed;
  for (u32 k = 0; k < piece_words; k++) piece(i)[k] = seed + k * 2654435761u;
}
static int piece_good(u32 i) {
  for (u32 k = 0; k < piece_words; k++) if (piece(i)[k] != written[i] + k * 2654435761u) return 0;
  return 1;
}

static void obey_button(void) {
  if (!(inw(0x600) & 0x100)) return;
  outw(0x600, 0x100);
  length = 0;
  put("BARE power button");
  print_line();
  outw(0x604, 0x2000);
}

void main(void) {
  start_clock();
  outw(0x602, 0x100);
  find_uuid();
  u32 pci = find(0, 0x1042, 0x1001);
  if (!pci) stop("no disk");
  start_device(&disk, pci, 1u << 9);
  start_queue(&disk, &disk_queue, 0);
  common8(&disk, 20) = 15;
  pci = find(0, 0x1041, 0x1000);
  if (pci) {
    start_device(&card, pci, 1u << 5);
    start_queue(&card, &card_queue, 1);
    common8(&card, 20) = 15;
    has_card = 1;
  }
  disk_do(disk_in, first_slot, ring, sizeof ring);
  u32 n = 0;
  for (u32 i = 0; i < slots; i++) if (slot_good(&ring[i]) && ring[i].n > n) n = ring[i].n;
  choose_boot(n);
  say("found", n, "");
  /* Those before the newest must be there: each was flushed before the next was written. */
  for (u32 k = n < slots ? n : slots - 1, i = 1; i < k; i++)
    if (!slot_good(&ring[(n - i) % slots]) || ring[(n - i) % slots].n != n - i) say("bad", n - i, " disk");
  for (u32 i = 0; i < pieces; i++) fill_piece(i, boot[0] + i);
  static struct slot back;
  for (;;) {
    n++;
    struct slot *s = &ring[n % slots];
    fill_slot(s, n);
    disk_do(disk_out, first_slot + n % slots, s, sizeof *s);
    disk_do(disk_flush, 0, 0, 0);
    say("count", n, "");
    disk_do(disk_in, first_slot + n % slots, &back, sizeof back);
    if (!slot_good(&back) || back.n != n) say("bad", n, " disk");
    if (!piece_good(n % pieces)) say("bad", n, " memory");
    fill_piece(n % pieces, boot[0] ^ n);
    u32 until = ticks + 4;
    while ((int)(ticks - until) < 0) {
      obey_button();
      __asm__ volatile("sti; hlt");
    }
  }
}

# From the BIOS to C: reads the program behind this sector, leaves 16-bit mode, calls main at 0x10000.
.code16
.globl _start
_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %ss
  movw $0x7c00, %sp
  movb %dl, drive
  # 64 sectors of 512 bytes to 0x1000:0000
  movw $packet, %si
  movb $0x42, %ah
  movb drive, %dl
  int $0x13
  jc stop
  inb $0x92, %al
  orb $2, %al
  outb %al, $0x92
  lgdt gdt_pointer
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmp $8, $flat
stop:
  hlt
  jmp stop

.code32
flat:
  movw $16, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $0x90000, %esp
  movl $0x10000, %eax
  call *%eax

.balign 8
gdt:
  .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
  .word 23
  .long gdt
packet:
  .byte 16, 0
  .word 64, 0, 0x1000
  .quad 1
drive:
  .byte 0
  .org 510
  .word 0xaa55

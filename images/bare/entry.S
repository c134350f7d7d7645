# First in the program, so that it stands at 0x10000. And the only interrupt there is: the clock's.
.globl entry, tick
.section .entry, "ax"
entry:
  movl $bss_begin, %edi
  movl $bss_end, %ecx
  subl %edi, %ecx
  xorl %eax, %eax
  rep stosb
  jmp main
.text
tick:
  pushl %eax
  incl ticks
  movb $0x20, %al
  outb %al, $0x20
  popl %eax
  iret

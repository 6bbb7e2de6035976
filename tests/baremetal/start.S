/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: from the reset vector to 64-bit C
 *
 * The image is 64 KiB.  QEMU shows it at 4 GiB - 64 KiB, where the boot
 * processor starts with a code segment based there, and again at 0xf0000,
 * where the start-up interrupt sends the others (vector 0xf0).  Both thus
 * enter start16 at offset 0 of their segment, and no trampoline is needed.
 */
#include "layout.h"

        .section .start, "ax"
        .code16
        .globl start16
start16:
        cli
        cld
        lgdtl   %cs:(gdt_ptr - start16)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x08, $start32

        .code32
start32:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $0x1b, %ecx             /* IA32_APIC_BASE */
        rdmsr
        testl   $0x100, %eax            /* boot processor? */
        jz      enter64

        /* RAM survives a system reset: never rely on it being zero. */
        movl    $_image_load, %esi
        movl    $_image_start, %edi
        movl    $_image_words, %ecx
        rep movsl
        movl    $_bss_start, %edi
        movl    $_bss_words, %ecx
        xorl    %eax, %eax
        rep stosl

        /* Identity map of PT_GIB GiB by 2 MiB pages */
        movl    $PT_BASE, %edi
        movl    $(0x2000 / 4), %ecx
        rep stosl
        movl    $(PT_BASE + 0x1000 + 0x7), PT_BASE
        movl    $(PT_BASE + 0x1000), %edi
        movl    $(PT_BASE + 0x2000 + 0x7), %eax
        movl    $PT_GIB, %ecx
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    1b
        movl    $(PT_BASE + 0x2000), %edi
        movl    $0x87, %eax             /* present, writable, user, 2 MiB */
        xorl    %edx, %edx
        movl    $(PT_GIB * 512), %ecx
2:      movl    %eax, (%edi)
        movl    %edx, 4(%edi)
        addl    $0x200000, %eax
        adcl    $0, %edx
        addl    $8, %edi
        loop    2b

enter64:
        movl    %cr4, %eax
        orl     $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    $PT_BASE, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       /* EFER.LME */
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        andl    $0x9fffffff, %eax       /* caches on */
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $start64

        .code64
start64:
        movl    $1, %eax
        cpuid
        shrl    $24, %ebx               /* APIC id is the CPU's number */
        cmpl    $MAX_CPUS, %ebx
        jae     stop
        movl    %ebx, %edi
        leal    1(%ebx), %eax
        shll    $STACK_SHIFT, %eax
        addl    $stacks, %eax
        movl    %eax, %esp
        movl    $cpu_main, %eax
        call    *%rax
stop:   cli
        hlt
        jmp     stop

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* 08: 32-bit code */
        .quad   0x00cf93000000ffff      /* 10: data */
        .quad   0x00af9b000000ffff      /* 18: 64-bit code */
gdt_ptr:
        .word   gdt_ptr - gdt - 1
        .long   gdt

        .section .reset, "ax"
        .code16
        .globl reset
reset:
        .byte   0xe9                    /* jmp start16, relative in 64 KiB */
        .word   start16 - reset - 3
        .balign 16

/*
 * Exceptions.  An NMI is counted and otherwise ignored: tests inject them.
 * All others are bugs of the guest and are reported.
 */
        .section .text, "ax"
        .code64
        .globl exception_stubs
exception_stubs:
        .set    vector, 0
        .rept   32
        .balign EXCEPTION_STUB
        .if     vector == 2
        lock incl nmi_count
        iretq
        .else
        pushq   $vector
        jmp     exception_common
        .endif
        .set    vector, vector + 1
        .endr
exception_common:
        movq    %rsp, %rdi
        andq    $-16, %rsp
        call    exception
        jmp     exception_common

        .section .note.GNU-stack, "", @progbits

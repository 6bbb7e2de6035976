/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: start of the processors, exceptions
 */
#include "guest.h"

#define APIC            0xfee00000
#define APIC_SVR        0xf0
#define APIC_ICR        0x300
#define APIC_ICR_HIGH   0x310
#define APIC_LVT_TIMER  0x320
#define APIC_LVT_LINT1  0x360
#define APIC_TIMER_INIT 0x380
#define APIC_TIMER_DIV  0x3e0

#define ICR_INIT        0x000c4500      /* to all but this processor */
#define ICR_STARTUP     0x000c46f0      /* the same; enter at 0xf0000 */

typedef struct {
    uint16_t offset0;
    uint16_t segment;
    uint16_t flags;
    uint16_t offset1;
    uint32_t offset2;
    uint32_t reserved;
} IdtGate;

char stacks[MAX_CPUS << STACK_SHIFT] __attribute__((aligned(16)));
volatile uint32_t nmi_count;
extern char exception_stubs[];

static IdtGate idt[32];
static volatile uint32_t online;

static volatile uint32_t *apic(unsigned reg)
{
    return (volatile uint32_t *)(uintptr_t)(APIC + reg);
}

/* @frame: vector, then what the processor pushed */
__attribute__((noreturn)) void exception(const uint64_t *frame)
{
    report("EXCEPTION vector=%u stack=%x %x %x", frame[0], frame[1], frame[2],
           frame[3]);
    power_off(0x7f);
    for (;;) {
        asm volatile("cli; hlt");
    }
}

static void idt_init(void)
{
    for (unsigned i = 0; i < 32; i++) {
        uint64_t at = (uintptr_t)exception_stubs + i * EXCEPTION_STUB;

        idt[i].offset0 = at;
        idt[i].segment = 0x18;
        idt[i].flags = 0x8e00;
        idt[i].offset1 = at >> 16;
        idt[i].offset2 = at >> 32;
    }
}

static void cpu_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) ptr = { sizeof(idt) - 1, (uintptr_t)idt };

    asm volatile("lidt %0" : : "m"(ptr));
    *apic(APIC_SVR) = 0x1ff;
    *apic(APIC_LVT_LINT1) = 0x400;      /* NMI */
}

/*
 * An NMI each @ns, so that hlt ends: what the guest waits for without
 * spinning, it looks for this often.
 */
void nmi_timer(uint32_t ns)
{
    *apic(APIC_TIMER_DIV) = 0xb;                /* each ns, as QEMU has it */
    *apic(APIC_LVT_TIMER) = 0x20000 | 0x400;    /* periodic, NMI */
    *apic(APIC_TIMER_INIT) = ns;
}

static void start_others(void)
{
    *apic(APIC_ICR) = ICR_INIT;
    while (online < cfg.cpus) {
        *apic(APIC_ICR) = ICR_STARTUP;
        for (unsigned i = 0; i < 100000 && online < cfg.cpus; i++) {
            pause();
        }
    }
}

/* Entered by each processor on its own stack */
void cpu_main(unsigned cpu)
{
    if (cpu == 0) {
        idt_init();
        config_load();
        cpu_init();
        report("BOOT cpus=%u workload=%s", cfg.cpus, cfg.workload);
        online = 1;
        if (cfg.cpus > 1) {
            start_others();
        }
    } else {
        /* Processors beyond those asked for stay out of the run. */
        if (cpu >= cfg.cpus) {
            return;
        }
        cpu_init();
        __atomic_add_fetch(&online, 1, __ATOMIC_SEQ_CST);
    }
    barrier();
    run_workload(cpu);
    barrier();
    if (cpu == 0) {
        report("END nmi=%u", (uint64_t)nmi_count);
        if (cfg.exit) {
            power_off(cfg.code);
        }
    }
}

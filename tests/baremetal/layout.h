/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: constants that C and assembly share
 */
#ifndef BAREMETAL_LAYOUT_H
#define BAREMETAL_LAYOUT_H

#define MAX_CPUS        16
#define STACK_SHIFT     13
#define PT_BASE         0x200000        /* page tables, above the image */
#define PT_GIB          32              /* size of the identity map */
#define EXCEPTION_STUB  16

#endif

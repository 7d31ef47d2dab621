/* A network on a bare Cortex-M in an emulator: images come from a file of the host's, row by row,
   and classes go to one, with the ticks of the core's timer that each image took. */

#include "net.h"

extern uint32_t chip_stack_low[], chip_stack_top[], chip_bss[], chip_bss_end[];
int main(void);
void chip_reset(void);

/* What ARM calls semihosting: a number and its arguments, and the debugger does the rest. */
static int host(int what, const void *arguments) {
    register int r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

enum { HOST_OPEN = 1, HOST_WRITE = 5, HOST_READ = 6, HOST_EXIT = 24, PAINT = 0x5A5A5A5A };
#define TIMER ((volatile uint32_t *)0xE000E010)

static int opened(const char *name, uint32_t length, int mode) {
    struct { const char *name; int mode; uint32_t length; } arguments = {name, mode, length};
    return host(HOST_OPEN, &arguments);
}

static int passed(int what, int file, void *place, uint32_t length) {
    struct { int file; void *place; uint32_t length; } arguments = {file, place, length};
    return host(what, &arguments);
}

static net_workspace work;
static uint8_t row[NET_ROW_BYTES];

int main(void) {
    int images = opened("images.bin", 10, 1), classes = opened("classes.bin", 11, 5);
    uint32_t *low = chip_stack_low;
    struct { int32_t found; uint32_t ticks, stack; } told;
    TIMER[1] = 0xFFFFFF;
    for (;;) {
        uint32_t y;
        told.ticks = 0;
        net_start_input(&work);
        for (y = 0; y < NET_ROWS; y += NET_ROW_BYTES / (NET_COLUMNS * NET_CHANNELS)) {
            uint32_t k;
            if (passed(HOST_READ, images, row, sizeof row)) host(HOST_EXIT, (void *)0x20026);
            TIMER[0] = 5;
            TIMER[2] = 0;
            for (k = 0; k < NET_ROW_BYTES / (NET_COLUMNS * NET_CHANNELS); k++) {
                net_take_row(&work, row + k * NET_COLUMNS, NET_ROWS * NET_COLUMNS);
            }
            told.ticks += 0xFFFFFF - TIMER[2];
            TIMER[0] = 0;
        }
        told.found = net_class(&work);
        while (*low == PAINT) low++;
        told.stack = (uint32_t)((char *)chip_stack_top - (char *)low);
        passed(HOST_WRITE, classes, &told, sizeof told);
    }
}

void chip_reset(void) {
    uint32_t *word, *here = (uint32_t *)__builtin_frame_address(0) - 8;
    for (word = chip_stack_low; word < here; word++) *word = PAINT;
    for (word = chip_bss; word < chip_bss_end; word++) *word = 0;
    main();
}

__attribute__((section(".vectors"), used)) static void *const vectors[2] = {
    chip_stack_top, (void *)chip_reset};

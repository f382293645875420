/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The checks of libvmclock in C: `check NAME ARGUMENT`. */
#define _GNU_SOURCE

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

struct vmclock_error failure;

void check_that(bool holds, const char *condition, const char *file, int line)
{
    if (!holds) {
        fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, condition);
        exit(1);
    }
}

void check_result(int expected, int result, const char *call, const char *file, int line)
{
    if (result != expected) {
        fprintf(stderr, "%s:%d: %s: %s, expected: %s; %.*s\n", file, line, call, vmclock_result_text(result),
                vmclock_result_text(expected), VMCLOCK_ERROR_TEXT_SIZE, failure.text);
        exit(1);
    }
}

#if defined(__x86_64__)
const uint8_t cpu_counter_id = VMCLOCK_COUNTER_X86_TSC;

uint64_t cpu_counter(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}
#elif defined(__aarch64__)
const uint8_t cpu_counter_id = VMCLOCK_COUNTER_ARM_CNTVCT;

uint64_t cpu_counter(void)
{
    uint64_t counter;
    __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(counter) : : "memory");
    return counter;
}
#else
#error "no VMClock is defined for this architecture"
#endif

void put(uint8_t *page, enum field field, uint64_t value, size_t bytes)
{
    for (size_t index = 0; index < bytes; index++)
        page[(size_t)field + index] = (uint8_t)(value >> 8 * index);
}

void good_page(uint8_t page[PAGE_SIZE])
{
    memset(page, 0, PAGE_SIZE);
    put(page, MAGIC, 0x4b4c4356, 4);
    put(page, SIZE, PAGE_SIZE, 4);
    put(page, VERSION, 1, 2);
    put(page, COUNTER_ID, cpu_counter_id, 1);
    put(page, TIME_TYPE, 1, 1);
    put(page, MARKER, 7, 8);
    put(page, FLAGS, 1 | 1 << 4 | 1 << 6 | 1 << 8, 8); /* TAI offset, both maximum errors, generation */
    put(page, STATUS, VMCLOCK_STATUS_SYNCHRONIZED, 1);
    put(page, TAI_OFFSET, (uint64_t)-37, 2);
    put(page, COUNTER, cpu_counter(), 8);
    put(page, PERIOD, 18446744074, 8); /* 2^64 / 10^9 */
    put(page, TIME_SEC, 2000000000, 8);
    put(page, MAX_ERROR, 1000000, 8);
    put(page, GENERATION, 9, 8);
}

void write_page(const char *path, const uint8_t *page, size_t length)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    CHECK(file >= 0);
    CHECK(write(file, page, length) == (ssize_t)length);
    CHECK(close(file) == 0);
}

void update(const char *path, enum field field, uint64_t value, size_t bytes)
{
    int file = open(path, O_RDWR | O_CLOEXEC);
    uint8_t *page;
    uint32_t *sequence;

    CHECK(file >= 0);
    page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(page != MAP_FAILED);
    sequence = (uint32_t *)(void *)(page + SEQ_COUNT);
    __atomic_store_n(sequence, *sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    put(page, field, value, bytes);
    __atomic_store_n(sequence, *sequence + 1, __ATOMIC_RELEASE);
    CHECK(munmap(page, PAGE_SIZE) == 0);
    CHECK(close(file) == 0);
}

int64_t system_ns(int clock)
{
    struct timespec now;

    CHECK(clock_gettime(clock, &now) == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(const char *argument);
    } checks[] = {
        {"vectors", check_vectors}, {"live", check_live},       {"values", check_values},
        {"hostile", check_hostile}, {"events", check_events},   {"threads", check_threads},
        {"allocations", check_allocations},
    };

    for (size_t index = 0; count == 3 && index < sizeof checks / sizeof *checks; index++) {
        if (strcmp(arguments[1], checks[index].name) == 0) {
            checks[index].run(arguments[2]);
            return 0;
        }
    }
    fprintf(stderr, "usage: check NAME ARGUMENT\n");
    return 2;
}

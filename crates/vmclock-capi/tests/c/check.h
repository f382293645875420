/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the checks in C share: a page in a file, and how to write it as a publisher does. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmclock.h>

/* Ends the program with what was expected and where. */
#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
void check_that(bool holds, const char *condition, const char *file, int line);

/* Ends the program if the call does not give this result, with the error's text. */
#define EXPECT(expected, call) check_result((expected), (call), #call, __FILE__, __LINE__)
void check_result(int expected, int result, const char *call, const char *file, int line);

/* The last error of the calls that are checked. */
extern struct vmclock_error failure;

/* Where the fields of a page are: docs/page-protocol.md. */
enum field {
    MAGIC = 0x00,
    SIZE = 0x04,
    VERSION = 0x08,
    COUNTER_ID = 0x0a,
    TIME_TYPE = 0x0b,
    SEQ_COUNT = 0x0c,
    MARKER = 0x10,
    FLAGS = 0x18,
    STATUS = 0x22,
    TAI_OFFSET = 0x24,
    LEAP = 0x26,
    SHIFT = 0x27,
    COUNTER = 0x28,
    PERIOD = 0x30,
    TIME_SEC = 0x48,
    MAX_ERROR = 0x60,
    GENERATION = 0x68,
    STRUCTURE = 0x70
};

#define PAGE_SIZE 4096

/* This CPU's counter, and what a page calls it. */
uint64_t cpu_counter(void);
extern const uint8_t cpu_counter_id;

/* Writes a number of so many bytes, little-endian, to a copy of a page. */
void put(uint8_t *page, enum field field, uint64_t value, size_t bytes);

/* Fills in a page that gives time: TAI from 2033 on, a counter of 1 GHz, errors of 1 ms. */
void good_page(uint8_t page[PAGE_SIZE]);

/* Writes a page to a file. */
void write_page(const char *path, const uint8_t *page, size_t length);

/* Changes a field of a page that others have mapped, as a publisher does. */
void update(const char *path, enum field field, uint64_t value, size_t bytes);

/* Nanoseconds of a clock of the system. */
int64_t system_ns(int clock);

/* The checks; each ends the program where it fails. */
void check_vectors(const char *file);
void check_live(const char *page);
void check_values(const char *folder);
void check_hostile(const char *folder);
void check_events(const char *folder);
void check_threads(const char *page);
void check_allocations(const char *folder);

#endif

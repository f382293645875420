/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The vectors that all languages share: what a page must give at a counter value, exactly. */
#define _GNU_SOURCE

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* The fields of a line, which are separated by tabs. What may be absent is then `-`; times are SEC:NSEC. */
enum column { NAME, PAGE, AT, STATE, DISRUPTION, GENERATION_OR_NONE, TIME, EARLIEST, LATEST, TAI, UTC, COLUMNS };

static const char *current;

static void same(const char *what, const char *expected, int result, const struct vmclock_time *time, bool utc)
{
    char found[64] = "-";

    if (result == VMCLOCK_OK)
        snprintf(found, sizeof found, utc ? "%" PRId64 ":%" PRIu32 ":%d" : "%" PRId64 ":%" PRIu32, time->sec,
                 time->nsec, time->leap_second);
    if (strcmp(found, expected) != 0) {
        fprintf(stderr, "%s: %s is %s, must be %s\n", current, what, found, expected);
        exit(1);
    }
}

static void check_vector(char **columns)
{
    static uint8_t page[PAGE_SIZE];
    const size_t length = strlen(columns[PAGE]) / 2;
    struct vmclock_reading reading;
    struct vmclock_interval interval;
    struct vmclock_state state;
    struct vmclock_epoch epoch;
    struct vmclock_time time;
    char found[32] = "-";
    int result;

    current = columns[NAME];
    memset(page, 0, sizeof page);
    CHECK(length <= sizeof page);
    for (size_t index = 0; index < length; index++) {
        unsigned byte;
        CHECK(sscanf(columns[PAGE] + 2 * index, "%2x", &byte) == 1);
        page[index] = (uint8_t)byte;
    }
    EXPECT(VMCLOCK_OK, vmclock_page_state(page, sizeof page, &state, &failure));
    CHECK(state.status == atoi(columns[STATE]));
    CHECK(state.epoch.disruption_marker == strtoull(columns[DISRUPTION], NULL, 10));
    if (state.epoch.has_generation)
        snprintf(found, sizeof found, "%" PRIu64, state.epoch.generation);
    CHECK(strcmp(found, columns[GENERATION_OR_NONE]) == 0);

    result = vmclock_page_reading(page, sizeof page, strtoull(columns[AT], NULL, 10), VMCLOCK_COUNTER_X86_TSC, &reading,
                                  &failure);
    CHECK(result == VMCLOCK_OK || (result == VMCLOCK_ERROR_NO_TIME && failure.reason != VMCLOCK_NO_TIME_NONE));
    CHECK(result == failure.code || result == VMCLOCK_OK);
    if (result == VMCLOCK_OK) {
        EXPECT(VMCLOCK_OK, vmclock_reading_epoch(&reading, &epoch));
        CHECK(memcmp(&epoch, &state.epoch, sizeof epoch) == 0);
        CHECK(vmclock_reading_status(&reading) == state.status);
        CHECK(vmclock_reading_counter(&reading) == strtoull(columns[AT], NULL, 10));
    }
    result = vmclock_reading_time(&reading, &time);
    same("time", columns[TIME], result, &time, false);
    CHECK(result != VMCLOCK_OK || time.scale == state.scale);
    result = vmclock_reading_interval(&reading, &interval);
    same("earliest", columns[EARLIEST], result, &interval.earliest, false);
    same("latest", columns[LATEST], result, &interval.latest, false);
    result = vmclock_reading_tai(&reading, &time);
    same("tai", columns[TAI], result, &time, false);
    result = vmclock_reading_utc(&reading, &time);
    same("utc", columns[UTC], result, &time, true);
}

void check_vectors(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[1024];
    int count = 0;

    CHECK(file != NULL);
    while (fgets(line, sizeof line, file)) {
        char *columns[COLUMNS], *rest = line;

        line[strcspn(line, "\n")] = '\0';
        for (int column = 0; column < COLUMNS; column++)
            CHECK((columns[column] = strsep(&rest, "\t")) != NULL);
        CHECK(rest == NULL);
        check_vector(columns);
        count++;
    }
    fclose(file);
    printf("vectors: %d\n", count);
}

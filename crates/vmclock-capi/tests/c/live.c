/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A page that `vmclock serve` publishes, with this machine's clock as the truth. */
#define _GNU_SOURCE

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

/* More than a wait takes, also on a busy machine: one minute. */
#define LIMIT 60000000000

static int64_t ns(const struct vmclock_time *time)
{
    int64_t count;

    EXPECT(VMCLOCK_OK, vmclock_time_ns(time, &count));
    return count;
}

/* The kernel's clock, taken before and after a reading, is within its interval. */
static void check_truth(const struct vmclock_clock *clock)
{
    struct vmclock_reading reading;
    struct vmclock_interval tai;
    struct vmclock_time time, utc;
    int64_t before, after;
    uint64_t max_error;
    int32_t offset;

    before = system_ns(CLOCK_REALTIME);
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, &failure));
    after = system_ns(CLOCK_REALTIME);
    EXPECT(VMCLOCK_OK, vmclock_reading_tai_interval(&reading, &tai));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai(&reading, &time));
    EXPECT(VMCLOCK_OK, vmclock_reading_utc(&reading, &utc));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai_offset(&reading, &offset));
    EXPECT(VMCLOCK_OK, vmclock_reading_max_error_ns(&reading, &max_error));
    CHECK(offset == 37);
    CHECK(time.scale == VMCLOCK_SCALE_TAI && utc.scale == VMCLOCK_SCALE_UTC);
    CHECK(ns(&time) - ns(&utc) == 37000000000);
    CHECK(ns(&tai.earliest) <= ns(&time) && ns(&time) <= ns(&tai.latest));
    CHECK((uint64_t)(ns(&tai.latest) - ns(&tai.earliest)) <= 2 * max_error + 1);
    CHECK(ns(&tai.earliest) - 37000000000 <= after && before <= ns(&tai.latest) - 37000000000);
}

void check_live(const char *page)
{
    struct vmclock_clock *clock, *reopened;
    struct vmclock_reading first, second;
    struct vmclock_options options;
    struct vmclock_interval tai;
    struct vmclock_epoch epoch;
    struct vmclock_state state;
    int64_t low, high;
    char absolute[PATH_MAX];

    EXPECT(VMCLOCK_OK, vmclock_open(page, &clock, &failure));
    CHECK(vmclock_is_mapped(clock));
    CHECK(strcmp(vmclock_path(clock), page) == 0 && realpath(page, absolute) != NULL);
    for (int round = 0; round < 1000; round++)
        check_truth(clock);

    /* By true time, not by the counter: the second is taken until it is certain. */
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &first, &failure));
    CHECK(vmclock_compare(&first, &first) == VMCLOCK_CANNOT_TELL);
    do {
        EXPECT(VMCLOCK_OK, vmclock_now_unordered(clock, &second, &failure));
    } while (!vmclock_certainly_before(&first, &second));
    CHECK(vmclock_compare(&first, &second) == VMCLOCK_CERTAINLY_BEFORE);
    CHECK(vmclock_compare(&second, &first) == VMCLOCK_CERTAINLY_AFTER);
    CHECK(vmclock_reading_counter(&first) < vmclock_reading_counter(&second));

    EXPECT(VMCLOCK_OK, vmclock_now(clock, &first, &failure));
    EXPECT(VMCLOCK_OK, vmclock_wait_until_after(clock, &first, LIMIT, &second, &failure));
    CHECK(vmclock_certainly_before(&first, &second));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai_interval(&second, &tai));
    EXPECT(VMCLOCK_OK, vmclock_wait_until_past(clock, &tai.latest, LIMIT, NULL, &failure));
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &first, &failure));
    CHECK(vmclock_certainly_before(&second, &first));

    EXPECT(VMCLOCK_OK, vmclock_get_epoch(clock, &epoch, &failure));
    CHECK(vmclock_is_current(clock, &epoch));
    epoch.disruption_marker++;
    CHECK(!vmclock_is_current(clock, &epoch));
    EXPECT(VMCLOCK_OK, vmclock_get_state(clock, &state, &failure));
    CHECK(state.status == VMCLOCK_STATUS_SYNCHRONIZED && state.counter == cpu_counter_id);
    CHECK(state.has_tai_offset == 1 && state.tai_offset == 37 && state.sequence % 2 == 0);
    EXPECT(VMCLOCK_OK, vmclock_check(clock, &failure));
    EXPECT(VMCLOCK_OK, vmclock_realtime_ahead(clock, &low, &high, &failure));
    CHECK(low <= 0 && 0 <= high);

    EXPECT(VMCLOCK_OK, vmclock_reopen(clock, &reopened, &failure));
    vmclock_close(clock);
    check_truth(reopened);
    vmclock_close(reopened);

    VMCLOCK_OPTIONS_DEFAULT(&options);
    options.flags = VMCLOCK_OPEN_UNMAPPED;
    EXPECT(VMCLOCK_OK, vmclock_open_with(page, &options, &clock, &failure));
    CHECK(!vmclock_is_mapped(clock));
    check_truth(clock);
    vmclock_close(clock);

    CHECK(setenv("VMCLOCK_PAGE", page, 1) == 0);
    EXPECT(VMCLOCK_OK, vmclock_open(NULL, &clock, &failure));
    CHECK(strcmp(vmclock_path(clock), page) == 0);
    vmclock_close(clock);
    printf("live: libvmclock %s\n", vmclock_version());
}

static void *read_often(void *argument)
{
    const struct vmclock_clock *clock = argument;
    struct vmclock_reading last, reading;

    EXPECT(VMCLOCK_OK, vmclock_now(clock, &last, NULL));
    for (int round = 0; round < 20000; round++) {
        EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, NULL));
        CHECK(!vmclock_certainly_before(&reading, &last));
        CHECK(vmclock_reading_counter(&last) < vmclock_reading_counter(&reading));
        last = reading;
    }
    return NULL;
}

void check_threads(const char *page)
{
    struct vmclock_clock *clock;
    pthread_t threads[4];

    EXPECT(VMCLOCK_OK, vmclock_open(page, &clock, &failure));
    for (int index = 0; index < 4; index++)
        CHECK(pthread_create(&threads[index], NULL, read_often, clock) == 0);
    for (int index = 0; index < 4; index++)
        CHECK(pthread_join(threads[index], NULL) == 0);
    vmclock_close(clock);
    printf("threads: 4\n");
}

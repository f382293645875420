/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A program in C in a real guest: `guest COUNT PAUSE` prints as many readings of the machine's own clock, as JSON, with
 * PAUSE microseconds between them: counter, earliest, TAI, latest in nanoseconds. `guest events NOTIFIED` prints
 * each event of the machine, as `vmclock watch --json` does, until it is ended; NOTIFIED is 1 where the device is to
 * notify, or 0. The host judges them. */
#define _GNU_SOURCE

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmclock.h>

static void fail(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static int64_t ns(const struct vmclock_time *time)
{
    int64_t count;

    if (vmclock_time_ns(time, &count) != VMCLOCK_OK || time->scale != VMCLOCK_SCALE_TAI)
        fail("vmclock_time_ns", "no TAI");
    return count;
}

static void print_events(const struct vmclock_clock *clock, bool notified)
{
    struct vmclock_events *events;
    struct vmclock_event event;
    struct vmclock_error error;

    if (vmclock_events_open(clock, 0, &events, &error) != VMCLOCK_OK)
        fail("vmclock_events_open", error.text);
    if (vmclock_events_notified(events) != notified)
        fail("vmclock_events_notified", notified ? "not notified" : "notified");
    while (vmclock_events_next(events, -1, &event, &error) == VMCLOCK_OK) {
        printf("{\"event\": \"%s\"}\n", vmclock_event_name(&event));
        fflush(stdout);
    }
    fail("vmclock_events_next", error.text);
}

int main(int count, char **arguments)
{
    const long readings = count == 3 ? atol(arguments[1]) : 0;
    const struct timespec pause = {.tv_nsec = count == 3 ? atol(arguments[2]) * 1000 : 0};
    struct vmclock_clock *clock;
    struct vmclock_error error;
    struct vmclock_epoch epoch;
    struct vmclock_state state;

    if (vmclock_open(NULL, &clock, &error) != VMCLOCK_OK)
        fail("vmclock_open", error.text);
    if (count == 3 && strcmp(arguments[1], "events") == 0)
        print_events(clock, atol(arguments[2]) != 0);
    if (vmclock_get_epoch(clock, &epoch, &error) != VMCLOCK_OK)
        fail("vmclock_get_epoch", error.text);
    if (vmclock_get_state(clock, &state, &error) != VMCLOCK_OK)
        fail("vmclock_get_state", error.text);
    printf("{\"path\": \"%s\", \"mapped\": %d, \"tai_offset\": %d, \"readings\": [", vmclock_path(clock),
           vmclock_is_mapped(clock), state.tai_offset);
    for (long index = 0; index < readings; index++) {
        struct vmclock_reading reading;
        struct vmclock_interval interval;
        struct vmclock_time tai;

        if (vmclock_now(clock, &reading, &error) != VMCLOCK_OK)
            fail("vmclock_now", error.text);
        if (vmclock_reading_tai_interval(&reading, &interval) != VMCLOCK_OK
            || vmclock_reading_tai(&reading, &tai) != VMCLOCK_OK)
            fail("vmclock_reading_tai_interval", "no TAI, or no bounds");
        printf("%s[%" PRIu64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]", index ? ", " : "",
               vmclock_reading_counter(&reading), ns(&interval.earliest), ns(&tai), ns(&interval.latest));
        nanosleep(&pause, NULL);
    }
    printf("], \"current\": %d, \"errors\": []}\n", vmclock_is_current(clock, &epoch));
    if (vmclock_check(clock, &error) != VMCLOCK_OK)
        fail("vmclock_check", error.text);
    vmclock_close(clock);
    return 0;
}

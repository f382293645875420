/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Events of a page that this program writes itself. No wait ends by itself, so that a busy machine changes nothing. */
#define _GNU_SOURCE

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static char path[4096];

static void expect(struct vmclock_events *events, int kind, const char *name, struct vmclock_event *event)
{
    EXPECT(VMCLOCK_OK, vmclock_events_next(events, -1, event, &failure));
    if (event->kind != kind)
        fprintf(stderr, "%s, must be %s\n", vmclock_event_name(event), name);
    CHECK(event->kind == kind && event->reserved == 0);
    CHECK(strcmp(vmclock_event_name(event), name) == 0);
}

static void expect_none(struct vmclock_events *events)
{
    struct vmclock_event event;

    CHECK(vmclock_events_next(events, 0, &event, &failure) == VMCLOCK_ERROR_TIMED_OUT);
    CHECK(event.kind == VMCLOCK_EVENT_NONE && failure.code == VMCLOCK_ERROR_TIMED_OUT);
}

void check_events(const char *folder)
{
    struct vmclock_clock *clock, *other;
    struct vmclock_events *events, *all;
    struct vmclock_event event;
    struct vmclock_epoch epoch;
    struct pollfd ready = {.events = POLLIN};
    uint8_t page[PAGE_SIZE];

    snprintf(path, sizeof path, "%s/events", folder);
    good_page(page);
    write_page(path, page, sizeof page);
    EXPECT(VMCLOCK_OK, vmclock_open(path, &clock, &failure));
    EXPECT(VMCLOCK_OK, vmclock_events_open(clock, 0, &events, &failure));
    EXPECT(VMCLOCK_OK, vmclock_events_open(clock, VMCLOCK_EVENTS_REFRESHES, &all, &failure));
    EXPECT(VMCLOCK_OK, vmclock_events_set_interval(events, 1000000, &failure));
    CHECK(!vmclock_events_notified(events));
    EXPECT(VMCLOCK_OK, vmclock_get_epoch(clock, &epoch, &failure));
    expect_none(events);
    expect_none(all);

    update(path, MARKER, 8, 8);
    expect(events, VMCLOCK_EVENT_DISRUPTED, "disrupted", &event);
    CHECK(event.from == 7 && event.to == 8);
    CHECK(event.before.epoch.disruption_marker == 7 && event.after.epoch.disruption_marker == 8);
    CHECK(memcmp(&event.before.epoch, &epoch, sizeof epoch) == 0 && !vmclock_is_current(clock, &epoch));
    CHECK(vmclock_is_current(clock, &event.after.epoch));
    expect(all, VMCLOCK_EVENT_DISRUPTED, "disrupted", &event);
    update(path, GENERATION, 10, 8);
    expect(events, VMCLOCK_EVENT_RESTORED, "restored", &event);
    CHECK(event.from == 9 && event.to == 10);
    expect(all, VMCLOCK_EVENT_RESTORED, "restored", &event);
    expect_none(events);

    update(path, TIME_SEC, 2000000001, 8);
    expect(all, VMCLOCK_EVENT_REFRESHED, "refreshed", &event);
    expect_none(events);

    /* Several at once, of which none is lost: two fields in one update are not for `update`, so the page is written anew. */
    update(path, FLAGS, 1 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8, 8);
    ready.fd = vmclock_events_fd(events);
    do {
        CHECK(poll(&ready, 1, -1) == 1);
    } while (vmclock_events_next(events, 0, &event, &failure) == VMCLOCK_ERROR_TIMED_OUT);
    CHECK(event.kind == VMCLOCK_EVENT_MAINTENANCE && event.to != event.from && event.to != VMCLOCK_MAINTENANCE_NONE);
    CHECK(event.after.maintenance == (int)event.to && event.before.maintenance == VMCLOCK_MAINTENANCE_NONE);
    CHECK(strncmp(vmclock_event_name(&event), "maintenance-", 12) == 0);
    update(path, FLAGS, 1 | 1 << 4 | 1 << 6 | 1 << 8, 8);
    expect(events, VMCLOCK_EVENT_MAINTENANCE, "maintenance-cleared", &event);
    update(path, STATUS, VMCLOCK_STATUS_UNRELIABLE, 1);
    expect(events, VMCLOCK_EVENT_STATUS, "status", &event);
    CHECK(event.from == VMCLOCK_STATUS_SYNCHRONIZED && event.to == VMCLOCK_STATUS_UNRELIABLE);
    update(path, LEAP, VMCLOCK_LEAP_PRE_POSITIVE, 1);
    expect(events, VMCLOCK_EVENT_TIME_SCALE, "time-scale", &event);
    CHECK(event.before.leap == VMCLOCK_LEAP_NONE && event.after.leap == VMCLOCK_LEAP_PRE_POSITIVE);
    update(path, COUNTER_ID, VMCLOCK_COUNTER_NONE, 1);
    expect(events, VMCLOCK_EVENT_COUNTER, "counter", &event);
    CHECK(event.from == cpu_counter_id && event.to == VMCLOCK_COUNTER_NONE);

    /* Gone, and back with another marker: the clock for the new page comes from the events. */
    CHECK(unlink(path) == 0);
    expect(events, VMCLOCK_EVENT_VANISHED, "vanished", &event);
    CHECK(event.after.counter == VMCLOCK_COUNTER_NONE && vmclock_check(clock, NULL) == VMCLOCK_ERROR_VANISHED);
    write_page(path, page, sizeof page);
    expect(events, VMCLOCK_EVENT_RETURNED, "returned", &event);
    CHECK(event.before.epoch.disruption_marker == 8 && event.after.epoch.disruption_marker == 7);
    expect(events, VMCLOCK_EVENT_DISRUPTED, "disrupted", &event);
    expect(events, VMCLOCK_EVENT_RESTORED, "restored", &event);
    expect(events, VMCLOCK_EVENT_STATUS, "status", &event);
    expect(events, VMCLOCK_EVENT_COUNTER, "counter", &event);
    expect(events, VMCLOCK_EVENT_TIME_SCALE, "time-scale", &event);
    expect_none(events);
    EXPECT(VMCLOCK_OK, vmclock_events_clock(events, &other, &failure));
    vmclock_close(clock);
    vmclock_events_close(all);
    vmclock_events_close(events);
    EXPECT(VMCLOCK_OK, vmclock_check(other, &failure));
    vmclock_close(other);
    printf("events\n");
}

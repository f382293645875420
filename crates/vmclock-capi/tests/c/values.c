/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Leap seconds, texts, comparisons, and what a page does not state: of pages in memory, whose time is known. */
#define _GNU_SOURCE

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

/* 2016-12-31 23:59:30 UTC. TAI-UTC was 36 s, and 37 s from the next day on. */
#define BEFORE_LEAP 1483228770

static void read_at(const uint8_t *page, double seconds, struct vmclock_reading *reading)
{
    const uint64_t counter = 1000000 + (uint64_t)(seconds * 1e9);

    EXPECT(VMCLOCK_OK, vmclock_page_reading(page, PAGE_SIZE, counter, VMCLOCK_COUNTER_THIS_CPU, reading, &failure));
}

static void check_text(const struct vmclock_time *time, const char *expected)
{
    char text[64], cut[12];

    CHECK(vmclock_time_format(time, text, sizeof text) == strlen(expected));
    if (strcmp(text, expected) != 0)
        fprintf(stderr, "%s, must be %s\n", text, expected);
    CHECK(strcmp(text, expected) == 0);
    CHECK(vmclock_time_format(time, cut, sizeof cut) == strlen(expected));
    CHECK(strlen(cut) == sizeof cut - 1 && strncmp(cut, expected, sizeof cut - 1) == 0);
}

static void check_utc(const uint8_t *page, double seconds, int64_t sec, int leap_second, int offset, const char *text)
{
    struct vmclock_reading reading;
    struct vmclock_time utc, tai;
    int32_t tai_offset;

    read_at(page, seconds, &reading);
    EXPECT(VMCLOCK_OK, vmclock_reading_utc(&reading, &utc));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai(&reading, &tai));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai_offset(&reading, &tai_offset));
    CHECK(utc.sec == sec && utc.leap_second == leap_second && utc.scale == VMCLOCK_SCALE_UTC);
    CHECK(tai_offset == offset && tai.sec == BEFORE_LEAP + 36 + (int64_t)seconds && tai.leap_second == 0);
    check_text(&utc, text);
}

static void check_leap_second(uint8_t *page)
{
    struct vmclock_reading reading;
    struct vmclock_time time;

    put(page, TIME_SEC, BEFORE_LEAP + 36, 8);
    put(page, TAI_OFFSET, (uint64_t)-36, 2);
    put(page, LEAP, VMCLOCK_LEAP_PRE_POSITIVE, 1);
    check_utc(page, 29.5, BEFORE_LEAP + 29, 0, 36, "2016-12-31T23:59:59.500000000Z");
    check_utc(page, 30.5, BEFORE_LEAP + 29, 1, 36, "2016-12-31T23:59:60.500000000Z");
    check_utc(page, 31.5, BEFORE_LEAP + 30, 0, 37, "2017-01-01T00:00:00.500000000Z");

    read_at(page, 30, &reading);
    EXPECT(VMCLOCK_OK, vmclock_reading_tai(&reading, &time));
    check_text(&time, "2017-01-01T00:00:36.000000000 TAI");
    EXPECT(VMCLOCK_OK, vmclock_reading_smeared_utc(&reading, VMCLOCK_SMEARING_NOON_LINEAR, &time));
    /* The page's period is that of 1 GHz, rounded up: half a nanosecond in 30 s. */
    CHECK(time.sec == BEFORE_LEAP + 29 && time.nsec - 500005786 <= 1 && time.scale == VMCLOCK_SCALE_SMEARED_UTC);
    time.nsec = 500005786;
    check_text(&time, "2016-12-31T23:59:59.500005786 smeared UTC");
    EXPECT(VMCLOCK_OK, vmclock_reading_smeared_utc(&reading, VMCLOCK_SMEARING_UTC_SLS, &time));
    CHECK(time.sec == BEFORE_LEAP + 29);
    CHECK(vmclock_reading_smeared_utc(&reading, VMCLOCK_SMEARING_AS_HINTED, &time) == VMCLOCK_ERROR_NOT_STATED);
    put(page, 0x23, 1, 1); /* the hint */
    read_at(page, 30, &reading);
    EXPECT(VMCLOCK_OK, vmclock_reading_smeared_utc(&reading, VMCLOCK_SMEARING_AS_HINTED, &time));
    CHECK(time.nsec - 500005786 <= 1);
}

static void check_order(uint8_t *page)
{
    struct vmclock_reading early, late;
    struct vmclock_interval one, other;

    /* One millisecond of error to either side. */
    read_at(page, 1, &early);
    read_at(page, 1.0019, &late);
    CHECK(vmclock_compare(&early, &late) == VMCLOCK_CANNOT_TELL && !vmclock_certainly_before(&early, &late));
    read_at(page, 1.0021, &late);
    CHECK(vmclock_compare(&early, &late) == VMCLOCK_CERTAINLY_BEFORE && vmclock_certainly_before(&early, &late));
    CHECK(vmclock_compare(&late, &early) == VMCLOCK_CERTAINLY_AFTER && !vmclock_certainly_before(&late, &early));

    EXPECT(VMCLOCK_OK, vmclock_reading_tai_interval(&early, &one));
    EXPECT(VMCLOCK_OK, vmclock_reading_tai_interval(&late, &other));
    CHECK(vmclock_interval_compare(&one, &other) == VMCLOCK_CERTAINLY_BEFORE);
    CHECK(vmclock_interval_compare(&other, &one) == VMCLOCK_CERTAINLY_AFTER);
    other.earliest = one.latest;
    CHECK(vmclock_interval_compare(&one, &other) == VMCLOCK_CANNOT_TELL);
    other.earliest.nsec++;
    CHECK(vmclock_interval_compare(&one, &other) == VMCLOCK_CERTAINLY_BEFORE);
    other.latest.scale = VMCLOCK_SCALE_UTC;
    CHECK(vmclock_interval_compare(&one, &other) == VMCLOCK_CANNOT_TELL);
}

static void check_not_stated(uint8_t *page)
{
    struct vmclock_reading reading, timed;
    struct vmclock_interval interval;
    struct vmclock_time time;
    struct vmclock_state state;
    uint64_t error;
    int64_t ns;

    put(page, FLAGS, 0, 8);
    read_at(page, 1, &reading);
    read_at(page, 9, &timed);
    CHECK(vmclock_reading_utc(&reading, &time) == VMCLOCK_ERROR_NOT_STATED && time.scale == VMCLOCK_SCALE_NONE);
    CHECK(vmclock_reading_tai_interval(&reading, &interval) == VMCLOCK_ERROR_NOT_STATED && interval.latest.sec == 0);
    CHECK(vmclock_reading_max_error_ns(&reading, &error) == VMCLOCK_ERROR_NOT_STATED);
    CHECK(vmclock_compare(&reading, &timed) == VMCLOCK_CANNOT_TELL);
    EXPECT(VMCLOCK_OK, vmclock_page_state(page, PAGE_SIZE, &state, &failure));
    CHECK(!state.has_tai_offset && !state.epoch.has_generation && state.epoch.filled);

    put(page, TIME_TYPE, 2, 1);
    read_at(page, 1.25, &reading);
    CHECK(vmclock_reading_tai(&reading, &time) == VMCLOCK_ERROR_NOT_STATED);
    EXPECT(VMCLOCK_OK, vmclock_reading_time(&reading, &time));
    CHECK(time.scale == VMCLOCK_SCALE_MONOTONIC);
    check_text(&time, "1483228807.250000000 s monotonic");

    time.sec = INT64_MAX;
    CHECK(vmclock_time_ns(&time, &ns) == VMCLOCK_ERROR_RANGE && ns == 0);
    time.sec = -1;
    time.nsec = 999999999;
    EXPECT(VMCLOCK_OK, vmclock_time_ns(&time, &ns));
    CHECK(ns == -1);
}

/* Structures keep their layout; what a program was compiled with is what the library fills. */
static void check_layout(void)
{
    CHECK(sizeof(struct vmclock_time) == 16 && sizeof(struct vmclock_interval) == 32);
    CHECK(sizeof(struct vmclock_reading) == 128 && sizeof(struct vmclock_epoch) == 24);
    CHECK(sizeof(struct vmclock_state) == 96 && sizeof(struct vmclock_event) == 216);
    CHECK(sizeof(struct vmclock_error) == 512 && sizeof(struct vmclock_options) == 16);
    CHECK(offsetof(struct vmclock_time, nsec) == 8 && offsetof(struct vmclock_time, leap_second) == 13);
    CHECK(offsetof(struct vmclock_state, status) == 24 && offsetof(struct vmclock_event, after) == 120);
    CHECK(offsetof(struct vmclock_error, text) == 16);
}

void check_values(const char *folder)
{
    uint8_t page[PAGE_SIZE];

    (void)folder;
    good_page(page);
    put(page, COUNTER, 1000000, 8);
    check_layout();
    check_leap_second(page);
    check_order(page);
    check_not_stated(page);
    printf("values\n");
}

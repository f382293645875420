/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Pages that are wrong in every way, files that are cut or replaced, and arguments that are NULL. */
#define _GNU_SOURCE

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

static char path[4096];
static struct vmclock_options impatient;

static uint64_t random_word(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* An error is one of those that are listed, and says something. */
static void check_error(int result, const struct vmclock_error *error)
{
    CHECK(result > VMCLOCK_OK && result < VMCLOCK_ERROR_INTERNAL);
    CHECK(error->code == result && error->reserved == 0);
    CHECK(memchr(error->text, '\0', sizeof error->text) != NULL);
    CHECK(strlen(error->text) > 10 && strchr(error->text, '\n') == NULL);
    CHECK((result == VMCLOCK_ERROR_NO_TIME) == (error->reason != VMCLOCK_NO_TIME_NONE));
    CHECK((result == VMCLOCK_ERROR_SYSTEM) == (error->system_errno != 0));
}

/* Everything that a reading can be asked. What it gives is well-formed; what it does not give is zeros. */
static bool exercise_reading(const struct vmclock_reading *reading)
{
    struct vmclock_time times[5];
    struct vmclock_interval intervals[2];
    struct vmclock_epoch epoch;
    const int timed[5] = {
        vmclock_reading_time(reading, &times[0]),
        vmclock_reading_tai(reading, &times[1]),
        vmclock_reading_utc(reading, &times[2]),
        vmclock_reading_smeared_utc(reading, VMCLOCK_SMEARING_NOON_LINEAR, &times[3]),
        vmclock_reading_smeared_utc(reading, VMCLOCK_SMEARING_AS_HINTED, &times[4]),
    };
    const int bounded[2] = {
        vmclock_reading_interval(reading, &intervals[0]),
        vmclock_reading_tai_interval(reading, &intervals[1]),
    };
    uint64_t error;
    int32_t offset;
    char text[64];

    for (int index = 0; index < 5; index++) {
        const struct vmclock_time *time = &times[index];
        const size_t length = vmclock_time_format(time, text, sizeof text);

        CHECK(time->nsec < 1000000000 && time->leap_second <= 1 && (time->leap_second == 0 || index == 2));
        CHECK((timed[index] == VMCLOCK_OK) == (time->scale != VMCLOCK_SCALE_NONE));
        CHECK(timed[index] == VMCLOCK_OK || (time->sec == 0 && time->nsec == 0));
        CHECK(length == strlen(text) || length >= sizeof text);
    }
    for (int index = 0; index < 2; index++) {
        const struct vmclock_interval *interval = &intervals[index];

        CHECK(vmclock_interval_compare(interval, interval) == VMCLOCK_CANNOT_TELL);
        if (bounded[index] != VMCLOCK_OK)
            continue;
        CHECK(interval->earliest.sec <= interval->latest.sec);
        CHECK(interval->earliest.nsec < 1000000000 && interval->latest.nsec < 1000000000);
    }
    CHECK((vmclock_reading_max_error_ns(reading, &error) == VMCLOCK_OK) == (bounded[0] == VMCLOCK_OK));
    if (vmclock_reading_tai_offset(reading, &offset) == VMCLOCK_OK)
        CHECK(offset >= 9 && offset <= 61);
    CHECK((vmclock_reading_epoch(reading, &epoch) == VMCLOCK_OK) == (epoch.filled == 1));
    CHECK(vmclock_compare(reading, reading) == VMCLOCK_CANNOT_TELL);
    return timed[0] == VMCLOCK_OK;
}

/* Everything that a clock can be asked. */
static bool exercise(const char *file)
{
    struct vmclock_clock *clock;
    struct vmclock_reading reading;
    struct vmclock_epoch epoch;
    struct vmclock_state state;
    struct vmclock_error error;
    int64_t low, high;
    bool gave_time = false;
    int result = vmclock_open_with(file, &impatient, &clock, &error);

    if (result != VMCLOCK_OK) {
        check_error(result, &error);
        CHECK(clock == NULL);
        return false;
    }
    result = vmclock_now(clock, &reading, &error);
    if (result != VMCLOCK_OK)
        check_error(result, &error);
    gave_time = exercise_reading(&reading);
    CHECK(gave_time == (result == VMCLOCK_OK));
    CHECK((int)vmclock_now_unordered(clock, &reading, NULL) == result);
    result = vmclock_get_epoch(clock, &epoch, &error);
    if (result != VMCLOCK_OK)
        check_error(result, &error);
    CHECK(vmclock_is_current(clock, &epoch) == (result == VMCLOCK_OK));
    result = vmclock_get_state(clock, &state, &error);
    if (result != VMCLOCK_OK)
        check_error(result, &error);
    result = vmclock_realtime_ahead(clock, &low, &high, &error);
    if (result != VMCLOCK_OK) {
        check_error(result, &error);
        CHECK(low == 0 && high == 0);
    }
    result = vmclock_check(clock, &error);
    if (result != VMCLOCK_OK)
        check_error(result, &error);
    vmclock_close(clock);
    return gave_time;
}

static int exercise_bytes(const uint8_t *page, size_t length)
{
    struct vmclock_reading reading;
    struct vmclock_state state;
    struct vmclock_error error;
    int result = vmclock_page_state(page, length, &state, &error);

    if (result != VMCLOCK_OK)
        check_error(result, &error);
    result = vmclock_page_reading(page, length, random_word(), VMCLOCK_COUNTER_THIS_CPU, &reading, &error);
    if (result != VMCLOCK_OK)
        check_error(result, &error);
    CHECK(exercise_reading(&reading) == (result == VMCLOCK_OK));
    write_page(path, page, length);
    return exercise(path);
}

static void check_random(void)
{
    uint8_t page[PAGE_SIZE];
    int gave_time = 0;

    for (int round = 0; round < 900; round++) {
        good_page(page);
        /* A third is all random; a third has a header; a third is a page with a random field or two. */
        if (round % 3 != 2) {
            for (size_t at = round % 3 ? MARKER : 0; at < PAGE_SIZE; at += 8)
                put(page, (enum field)at, random_word(), 8);
        } else {
            put(page, (enum field)(MARKER + 8 * (random_word() % 12)), random_word(), 8);
            put(page, (enum field)(MARKER + 8 * (random_word() % 12)), random_word(), 8);
        }
        gave_time += exercise_bytes(page, sizeof page);
    }
    CHECK(gave_time > 50);
    printf("hostile: of 900 random pages %d gave a time\n", gave_time);
}

static void check_extremes(void)
{
    static const uint8_t extremes[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    uint8_t page[PAGE_SIZE];

    for (size_t at = 0; at < STRUCTURE; at++) {
        for (size_t index = 0; index < sizeof extremes; index++) {
            good_page(page);
            memset(page + at, extremes[index], 8 - at % 8);
            exercise_bytes(page, sizeof page);
        }
    }
    /* Files and copies that end early. */
    for (size_t length = 0; length <= STRUCTURE; length++) {
        uint8_t *copy = malloc(length + 1);

        CHECK(copy != NULL);
        good_page(page);
        put(page, SIZE, length, 4);
        memcpy(copy, page, length);
        exercise_bytes(copy, length);
        free(copy);
    }
}

static void check_files(const char *folder)
{
    struct vmclock_clock *clock, *reopened;
    struct vmclock_reading reading, after;
    struct vmclock_epoch epoch;
    struct vmclock_error error;
    uint8_t page[PAGE_SIZE];
    char other[4200];

    good_page(page);
    put(page, SEQ_COUNT, 7, 4);
    write_page(path, page, sizeof page);
    CHECK(vmclock_open_with(path, &impatient, &clock, &error) == VMCLOCK_ERROR_BUSY && clock == NULL);
    check_error(VMCLOCK_ERROR_BUSY, &error);
    CHECK(strstr(error.text, "odd") != NULL && strstr(error.text, path) != NULL);

    good_page(page);
    write_page(path, page, sizeof page);
    EXPECT(VMCLOCK_OK, vmclock_open_with(path, &impatient, &clock, &failure));
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, &failure));
    EXPECT(VMCLOCK_OK, vmclock_get_epoch(clock, &epoch, &failure));
    update(path, STATUS, VMCLOCK_STATUS_UNRELIABLE, 1);
    CHECK(vmclock_now(clock, &reading, &error) == VMCLOCK_ERROR_NO_TIME && error.reason == VMCLOCK_NO_TIME_STATUS);
    CHECK(!exercise_reading(&reading));
    CHECK(vmclock_is_current(clock, &epoch));
    update(path, STATUS, VMCLOCK_STATUS_FREE_RUNNING, 1);
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, &failure));
    CHECK(vmclock_reading_status(&reading) == VMCLOCK_STATUS_FREE_RUNNING);

    /* A wait gives up at its limit, and on a disruption. Errors of a thousand seconds do not pass on a busy machine. */
    update(path, MAX_ERROR, 1000000000000, 8);
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, &failure));
    CHECK(vmclock_wait_until_after(clock, &reading, 0, &after, &error) == VMCLOCK_ERROR_TIMED_OUT);
    check_error(VMCLOCK_ERROR_TIMED_OUT, &error);
    CHECK(!exercise_reading(&after));
    update(path, MARKER, 8, 8);
    CHECK(vmclock_wait_until_after(clock, &reading, UINT64_MAX, NULL, &error) == VMCLOCK_ERROR_DISRUPTED);
    check_error(VMCLOCK_ERROR_DISRUPTED, &error);
    update(path, MARKER, 7, 8);

    /* Cut short under the mapping, beyond it, and put back. */
    CHECK(truncate(path, 0x40) == 0);
    CHECK(vmclock_now(clock, &reading, &error) == VMCLOCK_ERROR_VANISHED);
    check_error(VMCLOCK_ERROR_VANISHED, &error);
    CHECK(truncate(path, 0) == 0);
    CHECK(vmclock_now(clock, &reading, &error) == VMCLOCK_ERROR_VANISHED);
    CHECK(!vmclock_is_current(clock, &epoch));
    CHECK(vmclock_get_epoch(clock, &epoch, &error) == VMCLOCK_ERROR_VANISHED && epoch.filled == 0);
    CHECK(vmclock_check(clock, &error) == VMCLOCK_ERROR_VANISHED);
    CHECK(vmclock_reopen(clock, &reopened, &error) == VMCLOCK_ERROR_NOT_A_PAGE && reopened == NULL);
    write_page(path, page, sizeof page);
    EXPECT(VMCLOCK_OK, vmclock_reopen(clock, &reopened, &failure));
    EXPECT(VMCLOCK_OK, vmclock_now(reopened, &reading, &failure));
    vmclock_close(clock);

    /* Replaced, and removed. */
    snprintf(other, sizeof other, "%s/other", folder);
    write_page(other, page, sizeof page);
    CHECK(rename(other, path) == 0);
    CHECK(vmclock_check(reopened, &error) == VMCLOCK_ERROR_VANISHED && strstr(error.text, "replaced") != NULL);
    CHECK(unlink(path) == 0);
    CHECK(vmclock_check(reopened, &error) == VMCLOCK_ERROR_VANISHED && strstr(error.text, "removed") != NULL);
    vmclock_close(reopened);

    /* What is no file, and what is not there. */
    CHECK(vmclock_open(path, &clock, &error) == VMCLOCK_ERROR_NO_FILE && clock == NULL);
    check_error(VMCLOCK_ERROR_NO_FILE, &error);
    CHECK(vmclock_open(folder, &clock, &error) == VMCLOCK_ERROR_WRONG_KIND);
    CHECK(mkfifo(path, 0600) == 0);
    CHECK(vmclock_open(path, &clock, &error) == VMCLOCK_ERROR_WRONG_KIND);
    CHECK(unlink(path) == 0);
    CHECK(symlink(path, path) == 0);
    CHECK(vmclock_open(path, &clock, &error) == VMCLOCK_ERROR_SYSTEM && error.system_errno == ELOOP);
    CHECK(unlink(path) == 0);
    CHECK(vmclock_open("/dev/no-such-vmclock", &clock, NULL) != VMCLOCK_OK && clock == NULL);

    /* A path that is longer than the text can be, of characters of two bytes: cut between two of them. */
    for (size_t at = 0; at + 2 < sizeof other; at += 2)
        memcpy(other + at, "\xc3\xa4", 2);
    other[sizeof other - 2] = '\0';
    check_error(vmclock_open(other, &clock, &error), &error);
    CHECK(strlen(error.text) >= sizeof error.text - 3);
}

static void check_null(void)
{
    struct vmclock_clock *clock, *lost;
    struct vmclock_events *events, *missed;
    struct vmclock_event event;
    struct vmclock_reading reading, none;
    struct vmclock_options options;
    struct vmclock_interval interval;
    struct vmclock_epoch epoch;
    struct vmclock_state state;
    struct vmclock_error error;
    struct vmclock_time time;
    uint8_t page[PAGE_SIZE];
    int64_t number;
    uint64_t count;
    int32_t seconds;

    good_page(page);
    write_page(path, page, sizeof page);
    EXPECT(VMCLOCK_OK, vmclock_open(path, &clock, NULL));
    EXPECT(VMCLOCK_OK, vmclock_now(clock, &reading, NULL));
    EXPECT(VMCLOCK_OK, vmclock_events_open(clock, 0, &events, NULL));
    memset(&none, 0, sizeof none);

    check_error(vmclock_open(path, NULL, &error), &error);
    check_error(vmclock_open_with(path, NULL, &lost, &error), &error);
    memset(&options, 0, sizeof options);
    check_error(vmclock_open_with(path, &options, &lost, &error), &error);
    vmclock_options_default(NULL, sizeof options);
    vmclock_options_default(&options, sizeof options - 1);
    CHECK(options.size == 0);
    VMCLOCK_OPTIONS_DEFAULT(&options);
    options.flags = 0x80;
    check_error(vmclock_open_with(path, &options, &lost, &error), &error);
    check_error(vmclock_reopen(NULL, &lost, &error), &error);
    CHECK(lost == NULL);
    check_error(vmclock_reopen(clock, NULL, &error), &error);
    vmclock_close(NULL);
    vmclock_events_close(NULL);
    CHECK(vmclock_path(NULL) == NULL && !vmclock_is_mapped(NULL));
    check_error(vmclock_now(NULL, &none, &error), &error);
    check_error(vmclock_now(clock, NULL, &error), &error);
    CHECK(vmclock_now_unordered(NULL, NULL, NULL) == VMCLOCK_ERROR_ARGUMENT);
    check_error(vmclock_get_epoch(NULL, &epoch, &error), &error);
    check_error(vmclock_get_epoch(clock, NULL, &error), &error);
    CHECK(!vmclock_is_current(clock, NULL) && !vmclock_is_current(NULL, &epoch) && !vmclock_is_current(clock, &epoch));
    check_error(vmclock_get_state(NULL, &state, &error), &error);
    check_error(vmclock_get_state(clock, NULL, &error), &error);
    check_error(vmclock_check(NULL, &error), &error);
    check_error(vmclock_realtime_ahead(NULL, &number, &number, &error), &error);
    check_error(vmclock_realtime_ahead(clock, NULL, &number, &error), &error);

    check_error(vmclock_wait_until_after(NULL, &reading, 0, NULL, &error), &error);
    check_error(vmclock_wait_until_after(clock, NULL, 0, NULL, &error), &error);
    check_error(vmclock_wait_until_after(clock, &none, 0, NULL, &error), &error);
    check_error(vmclock_wait_until_past(clock, NULL, 0, NULL, &error), &error);

    CHECK(vmclock_reading_tai(NULL, &time) == VMCLOCK_ERROR_ARGUMENT && time.scale == VMCLOCK_SCALE_NONE);
    CHECK(vmclock_reading_tai(&reading, NULL) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_tai(&none, &time) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_utc(&none, &time) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_smeared_utc(&reading, 3, &time) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_smeared_utc(&reading, 0, &time) == VMCLOCK_ERROR_NOT_STATED);
    CHECK(vmclock_reading_time(&none, &time) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_interval(&none, &interval) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_tai_interval(NULL, NULL) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_max_error_ns(&none, &count) == VMCLOCK_ERROR_ARGUMENT && count == 0);
    CHECK(vmclock_reading_tai_offset(&none, &seconds) == VMCLOCK_ERROR_ARGUMENT && seconds == 0);
    CHECK(vmclock_reading_epoch(&none, &epoch) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_reading_status(&none) == 0 && vmclock_reading_status(NULL) == 0);
    CHECK(vmclock_reading_counter(&none) == 0 && vmclock_reading_counter(NULL) == 0);
    CHECK(vmclock_compare(&reading, &none) == VMCLOCK_CANNOT_TELL);
    CHECK(vmclock_compare(NULL, &reading) == VMCLOCK_CANNOT_TELL);
    CHECK(!vmclock_certainly_before(&none, &reading) && !vmclock_certainly_before(NULL, NULL));
    CHECK(vmclock_interval_compare(NULL, &interval) == VMCLOCK_CANNOT_TELL);
    CHECK(vmclock_time_ns(NULL, &number) == VMCLOCK_ERROR_ARGUMENT && number == 0);
    CHECK(vmclock_time_ns(&time, NULL) == VMCLOCK_ERROR_ARGUMENT);
    CHECK(vmclock_time_format(NULL, NULL, 0) == 0);
    CHECK(vmclock_time_format(&time, NULL, 10) > 0);

    check_error(vmclock_page_reading(NULL, 4096, 0, 1, &none, &error), &error);
    check_error(vmclock_page_reading(page, SIZE_MAX, 0, 1, &none, &error), &error);
    check_error(vmclock_page_reading(page, sizeof page, 0, 1, NULL, &error), &error);
    check_error(vmclock_page_reading(page, sizeof page, 0, 256, &none, &error), &error);
    check_error(vmclock_page_state(NULL, 0, &state, &error), &error);
    check_error(vmclock_page_state(page, sizeof page, NULL, &error), &error);

    check_error(vmclock_events_open(NULL, 0, &missed, &error), &error);
    CHECK(missed == NULL);
    check_error(vmclock_events_open(clock, 0, NULL, &error), &error);
    check_error(vmclock_events_open(clock, 0x80, &missed, &error), &error);
    CHECK(vmclock_events_fd(NULL) == -1 && !vmclock_events_notified(NULL));
    check_error(vmclock_events_next(NULL, 0, &event, &error), &error);
    CHECK(event.kind == VMCLOCK_EVENT_NONE);
    check_error(vmclock_events_next(events, 0, NULL, &error), &error);
    check_error(vmclock_events_set_interval(NULL, 1, &error), &error);
    check_error(vmclock_events_clock(NULL, &lost, &error), &error);
    CHECK(strcmp(vmclock_event_name(NULL), "unknown") == 0 && strcmp(vmclock_event_name(&event), "unknown") == 0);
    CHECK(strlen(vmclock_result_text(-1)) > 0 && strlen(vmclock_result_text(10000)) > 0);
    vmclock_close(clock); /* events outlive the clock that they were opened on */
    CHECK(vmclock_events_next(events, 0, &event, &error) == VMCLOCK_ERROR_TIMED_OUT);
    vmclock_events_close(events);
}

void check_hostile(const char *folder)
{
    snprintf(path, sizeof path, "%s/hostile", folder);
    VMCLOCK_OPTIONS_DEFAULT(&impatient);
    CHECK(impatient.max_wait_ns == 100000000);
    impatient.max_wait_ns = 1000000;
    check_random();
    check_extremes();
    check_files(folder);
    check_null();
}

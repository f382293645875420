/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * libvmclock: time inside a virtual machine, with its error bounds, and the machine's events, from a VMClock page.
 *
 * A VMClock is one page of shared memory in which a hypervisor states for its guest how the CPU's counter relates
 * to real time, that the counter was disrupted (a live migration), and that the guest was restored from a
 * snapshot. Linux has it as `/dev/vmclock0` since 6.13.
 *
 * CLOCKS
 *
 * `vmclock_open()` opens one, `vmclock_now()` reads it for the price of clock_gettime(2): no system call, no lock,
 * no allocation. `vmclock_is_current()` tells within a nanosecond or two whether the machine was migrated or
 * restored, and `vmclock_events_open()` waits for that. Where a page gives no time, so does this library, with the
 * reason: never a made-up time.
 *
 * UNITS AND SCALES
 *
 * Times are seconds and nanoseconds since the epoch of a time scale, which each of them names. TAI counts every
 * second once: compare and subtract in TAI. UTC is counted as POSIX does, with a flag for the leap second
 * 23:59:60. TAI-UTC is positive: +37 s since 2017. Errors are nanoseconds to either side, and rounded up; the ends
 * of intervals are rounded outwards.
 *
 * ERRORS
 *
 * A function that can fail returns one of `enum vmclock_result`, `VMCLOCK_OK` (0) on success. Most take a pointer
 * to a `struct vmclock_error` as well, which is then filled with what is wrong and what to do about it; NULL if
 * that is of no interest. What a function that fails was to give is all zeros (or NULL). NULL is an error, never a
 * crash, but a pointer that is not NULL has to be a good one. No page's contents, however hostile, stop the
 * program.
 *
 * THREADS
 *
 * A clock may be used by any number of threads at the same time; events by one at a time. All other structures are
 * plain values of the caller's. After fork(2) a clock works in both processes; events are to be opened anew in the
 * child.
 *
 * COMPATIBILITY
 *
 * The library's soname is `libvmclock.so.1`, and its symbols have versions. Structures keep their layout, and
 * enumerations the numbers that they have; new functions and new values come in addition.
 *
 * EXAMPLES
 *
 *     struct vmclock_clock *clock;
 *     struct vmclock_error error;
 *     struct vmclock_reading reading;
 *     struct vmclock_interval tai;
 *
 *     if (vmclock_open(NULL, &clock, &error) != VMCLOCK_OK)
 *         errx(1, "%s", error.text);
 *     if (vmclock_now(clock, &reading, &error) != VMCLOCK_OK)
 *         errx(1, "%s", error.text);
 *     if (vmclock_reading_tai_interval(&reading, &tai) == VMCLOCK_OK)
 *         printf("not before %lld s TAI\n", (long long)tai.earliest.sec);
 *     vmclock_close(clock);
 */

#ifndef VMCLOCK_H
#define VMCLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMCLOCK_OPTIONS_DEFAULT(options) vmclock_options_default((options), sizeof *(options))

/** How many bytes `text` in `struct vmclock_error` has, the zero at its end included. */
#define VMCLOCK_ERROR_TEXT_SIZE 496

/**
 * Do not map plain files: no SIGBUS handler is installed, and every reading of a plain file costs system calls.
 * Devices are mapped without a handler.
 */
#define VMCLOCK_OPEN_FILES_UNMAPPED 1

/** Map nothing: every reading costs system calls. */
#define VMCLOCK_OPEN_UNMAPPED 2

/** For `vmclock_events_open()`: refreshes of the calibration are events too. */
#define VMCLOCK_EVENTS_REFRESHES 1

/**
 * What is known of the order of two instants of which only bounds are known. Negative, zero and positive as with
 * `strcmp`, but zero does not mean that they are the same instant.
 */
enum vmclock_order {
    /** The first is certainly before the second: their intervals do not even touch. */
    VMCLOCK_CERTAINLY_BEFORE = -1,
    /** The intervals overlap, are not known, or are on different scales. */
    VMCLOCK_CANNOT_TELL = 0,
    /** The first is certainly after the second. */
    VMCLOCK_CERTAINLY_AFTER = 1,
};

/** What a function has to say. Values are added over time, and keep their numbers. */
enum vmclock_result {
    /** Done. */
    VMCLOCK_OK = 0,
    /** A pointer is NULL that must not be, or a structure was not filled by this library. */
    VMCLOCK_ERROR_ARGUMENT = 1,
    /** There is no device at the path, and no sign of a VMClock in this machine. */
    VMCLOCK_ERROR_NO_DEVICE = 2,
    /** The hypervisor offers a VMClock, but the kernel has no driver for it, or has not loaded it. */
    VMCLOCK_ERROR_NO_DRIVER = 3,
    /** There is no file at the path: no publisher has made a page there. */
    VMCLOCK_ERROR_NO_FILE = 4,
    /** The path exists, but may not be read. */
    VMCLOCK_ERROR_PERMISSION = 5,
    /** The path is neither a character device nor a plain file. */
    VMCLOCK_ERROR_WRONG_KIND = 6,
    /** What is there is not a VMClock page, or not any more. */
    VMCLOCK_ERROR_NOT_A_PAGE = 7,
    /** The page stayed in the middle of an update for as long as was allowed. */
    VMCLOCK_ERROR_BUSY = 8,
    /** The page is valid but gives no time now; `reason` in `struct vmclock_error` says why. It may give one later. */
    VMCLOCK_ERROR_NO_TIME = 9,
    /**
     * The page's file was cut short, removed or replaced while it was open, or the device was removed: open the clock
     * again.
     */
    VMCLOCK_ERROR_VANISHED = 10,
    /** The system refused; `system_errno` in `struct vmclock_error` is its error number. */
    VMCLOCK_ERROR_SYSTEM = 11,
    /**
     * The page does not state what was asked for: no TAI offset, so no UTC of a page in TAI; no maximum error, so no
     * interval; no smearing hint.
     */
    VMCLOCK_ERROR_NOT_STATED = 12,
    /** The number does not fit: a time beyond the range of the result. */
    VMCLOCK_ERROR_RANGE = 13,
    /** Time was up before anything happened. */
    VMCLOCK_ERROR_TIMED_OUT = 14,
    /** The counter was disrupted, or the machine restored, while waiting: what was waited for means nothing now. */
    VMCLOCK_ERROR_DISRUPTED = 15,
    /** A defect of this library. Nothing was done; please report it. */
    VMCLOCK_ERROR_INTERNAL = 16,
};

/** Time scales: `scale` in `struct vmclock_time` and `struct vmclock_state`. */
enum vmclock_scale {
    /** None: there is no time. */
    VMCLOCK_SCALE_NONE = 0,
    /** TAI, in seconds since 1970-01-01 00:00:00 TAI. Every second is there once: what to compare and to subtract. */
    VMCLOCK_SCALE_TAI = 1,
    /** UTC, in seconds as POSIX counts them since 1970-01-01 00:00:00; `leap_second` tells 23:59:60 from 23:59:59. */
    VMCLOCK_SCALE_UTC = 2,
    /** Monotonic, in seconds since an epoch that is not defined. */
    VMCLOCK_SCALE_MONOTONIC = 3,
    /** UTC smeared around leap seconds: never goes back, but some of its seconds are longer or shorter. */
    VMCLOCK_SCALE_SMEARED_UTC = 4,
};

/** How far the clock can be trusted. Other numbers are possible, and give no time. */
enum vmclock_status {
    /** The host does not state it. Gives no time. */
    VMCLOCK_STATUS_UNKNOWN = 0,
    /** The host is still calibrating. Gives no time. */
    VMCLOCK_STATUS_INITIALIZING = 1,
    /** Synchronized to a reference. */
    VMCLOCK_STATUS_SYNCHRONIZED = 2,
    /** Running after the reference was lost, or without one; the error bounds grow. */
    VMCLOCK_STATUS_FREE_RUNNING = 3,
    /** Broken. Gives no time. */
    VMCLOCK_STATUS_UNRELIABLE = 4,
};

/** CPU counters. Other numbers are possible, and are no CPU's that this library knows. */
enum vmclock_counter {
    /** For `vmclock_page_reading()`: the counter of the CPU that the program runs on. */
    VMCLOCK_COUNTER_THIS_CPU = -1,
    /** The Arm architecture's virtual counter, `CNTVCT_EL0`. */
    VMCLOCK_COUNTER_ARM_CNTVCT = 0,
    /** The x86 time-stamp counter. */
    VMCLOCK_COUNTER_X86_TSC = 1,
    /** No counter: the page gives no time. */
    VMCLOCK_COUNTER_NONE = 255,
};

/** How near a disruption is that the hypervisor's operator has announced. */
enum vmclock_maintenance {
    /** None is announced. */
    VMCLOCK_MAINTENANCE_NONE = 0,
    /** Within about a day. */
    VMCLOCK_MAINTENANCE_SOON = 1,
    /** Within about an hour. */
    VMCLOCK_MAINTENANCE_IMMINENT = 2,
};

/** Where the page's reference time is relative to a leap second. Other numbers are possible, and give no UTC. */
enum vmclock_leap {
    /** No leap second is near. */
    VMCLOCK_LEAP_NONE = 0,
    /** A second will be inserted at the end of this UTC month. */
    VMCLOCK_LEAP_PRE_POSITIVE = 1,
    /** A second will be deleted at the end of this UTC month. */
    VMCLOCK_LEAP_PRE_NEGATIVE = 2,
    /** The reference time is inside 23:59:60. */
    VMCLOCK_LEAP_POSITIVE = 3,
    /** A second was inserted at the start of this UTC month. */
    VMCLOCK_LEAP_POST_POSITIVE = 4,
    /** A second was deleted at the start of this UTC month. */
    VMCLOCK_LEAP_POST_NEGATIVE = 5,
};

/** Why a valid page gives no time: `reason` in `struct vmclock_error`. */
enum vmclock_no_time {
    /** The error is another than `VMCLOCK_ERROR_NO_TIME`. */
    VMCLOCK_NO_TIME_NONE = 0,
    /** The page ends before the fields of the time: the hypervisor offers events only. */
    VMCLOCK_NO_TIME_FIELDS = 1,
    /** The page is about another counter than this CPU's, or about none. */
    VMCLOCK_NO_TIME_COUNTER = 2,
    /** The clock's status is unknown, initializing or unreliable. */
    VMCLOCK_NO_TIME_STATUS = 3,
    /** The counter's period is zero. */
    VMCLOCK_NO_TIME_PERIOD = 4,
    /** The period's shift is 128 or more. */
    VMCLOCK_NO_TIME_SHIFT = 5,
    /** The time scale is one that no page may have. */
    VMCLOCK_NO_TIME_SCALE = 6,
    /** The time is beyond 2^63 s from the epoch. */
    VMCLOCK_NO_TIME_RANGE = 7,
    /** A reason that this header does not know: see `text`. */
    VMCLOCK_NO_TIME_OTHER = 255,
};

/** Ways to smear UTC around a leap second, in which no second repeats and none is missing. */
enum vmclock_smearing {
    /** As the page hints. */
    VMCLOCK_SMEARING_AS_HINTED = 0,
    /** Linearly, from the noon before the leap second to the noon after it. */
    VMCLOCK_SMEARING_NOON_LINEAR = 1,
    /** UTC-SLS: over the last 1000 seconds of the leap day. */
    VMCLOCK_SMEARING_UTC_SLS = 2,
};

/** What happened. Values are added over time: ignore those that you do not know. */
enum vmclock_event_kind {
    /** Nothing. */
    VMCLOCK_EVENT_NONE = 0,
    /**
     * The counter was disrupted, as by a live migration: drop what was measured with it. `from` and `to` are markers.
     */
    VMCLOCK_EVENT_DISRUPTED = 1,
    /**
     * The machine was restored from saved state, or cloned: renew what must be unique. `from` and `to` are
     * generations.
     */
    VMCLOCK_EVENT_RESTORED = 2,
    /** A disruption was announced, is nearer, or was cancelled. `from` and `to` are of `enum vmclock_maintenance`. */
    VMCLOCK_EVENT_MAINTENANCE = 3,
    /** The clock's status changed. `from` and `to` are of `enum vmclock_status`. */
    VMCLOCK_EVENT_STATUS = 4,
    /** The page's counter changed, as a rule from none to one. `from` and `to` are of `enum vmclock_counter`. */
    VMCLOCK_EVENT_COUNTER = 5,
    /** TAI-UTC or the leap indicator changed: `before` and `after` have both. `from` and `to` are zero. */
    VMCLOCK_EVENT_TIME_SCALE = 6,
    /** Only the calibration was refreshed; reported on request alone. `from` and `to` are zero. */
    VMCLOCK_EVENT_REFRESHED = 7,
    /**
     * The page vanished, its file removed or its device lost: its time is not to be used. Its path is tried until
     * there is a page again. `from` and `to` are zero.
     */
    VMCLOCK_EVENT_VANISHED = 8,
    /**
     * There is a page again; what changed meanwhile follows as events of their own. Take the new clock from
     * `vmclock_events_clock()`. `from` and `to` are zero.
     */
    VMCLOCK_EVENT_RETURNED = 9,
};

/** An open clock. Any number of threads may use one at the same time, without slowing each other down. */
struct vmclock_clock;

/** The events of a machine, from the moment when this was opened. To be used by one thread at a time. */
struct vmclock_events;

/** An instant, rounded down to nanoseconds. */
struct vmclock_time {
    /** Whole seconds since the scale's epoch, rounded down: negative before 1970. */
    int64_t sec;
    /** Nanoseconds of the second, from 0 to 999999999. */
    uint32_t nsec;
    /** The time scale: one of `enum vmclock_scale`. */
    uint8_t scale;
    /** 1 during the leap second 23:59:60 UTC, in which `sec` is that of 23:59:59; otherwise 0. */
    uint8_t leap_second;
    /** Zero. */
    uint8_t reserved[2];
};

/**
 * Where true time is: nowhere before `earliest`, nowhere after `latest`. Both ends are on the same scale and rounded
 * outwards to nanoseconds.
 */
struct vmclock_interval {
    /** True time is not before this. */
    struct vmclock_time earliest;
    /** True time is not after this. */
    struct vmclock_time latest;
};

/** How to open a clock: fill it with `vmclock_options_default()`, then change what should be different. */
struct vmclock_options {
    /** How many bytes the structure has for the program, by which the library knows what fields there are. */
    uint32_t size;
    /** `VMCLOCK_OPEN_` flags. */
    uint32_t flags;
    /**
     * How many nanoseconds a reading waits for an update in progress before it fails with `VMCLOCK_ERROR_BUSY`: 100 ms
     * by default, as in Linux's driver.
     */
    uint64_t max_wait_ns;
};

/**
 * What went wrong, in full: for a log, or for whoever has to put it right. Every function that takes a pointer to one
 * takes NULL as well; on success it writes nothing there.
 */
struct vmclock_error {
    /** The result code that the function returned: one of `enum vmclock_result`. */
    int32_t code;
    /** Why there is no time, where `code` is `VMCLOCK_ERROR_NO_TIME`: one of `enum vmclock_no_time`. */
    int32_t reason;
    /** The system's error number (`errno`), where `code` is `VMCLOCK_ERROR_SYSTEM`; otherwise 0. */
    int32_t system_errno;
    /** Zero. */
    int32_t reserved;
    /**
     * What went wrong and what to do, in English and UTF-8, without a line feed, ended with a zero; cut short where it
     * is too long.
     */
    char text[VMCLOCK_ERROR_TEXT_SIZE];
};

/**
 * The time at one moment, with its error bounds and the rest of the page at that moment.
 *
 * It may be copied and compared with others, in this process. What it holds is private to the library, undecoded, as
 * that is what makes a reading cheap: the `vmclock_reading_` functions decode it. They return `VMCLOCK_ERROR_ARGUMENT`
 * for NULL and for what is no reading, and `VMCLOCK_ERROR_NOT_STATED` where the page does not state what was asked
 * for; on failure the result is all zeros.
 */
struct vmclock_reading {
    /** Private. */
    uint64_t words[14];
    /** Private. */
    uint64_t filled;
    /** Private. */
    uint64_t reserved;
};

/**
 * A machine's epoch: as long as it stays the same, neither was the counter disrupted (a live migration), nor the
 * machine restored from saved state or cloned.
 */
struct vmclock_epoch {
    /** Takes a new value whenever the counter was disrupted: drop what was measured with it. */
    uint64_t disruption_marker;
    /**
     * Takes a new value whenever the machine was restored or cloned: renew what must be unique. Zero where the page
     * has none.
     */
    uint64_t generation;
    /** 1 where the page has a generation, otherwise 0. */
    uint32_t has_generation;
    /** 1 where this library has filled the structure. */
    uint32_t filled;
};

/** The page without its calibration. */
struct vmclock_state {
    /** The machine's epoch. */
    struct vmclock_epoch epoch;
    /** How far the clock can be trusted: as a rule one of `enum vmclock_status`. */
    int32_t status;
    /** What disruption is announced: one of `enum vmclock_maintenance`. */
    int32_t maintenance;
    /** The counter that the page is about: as a rule one of `enum vmclock_counter`. */
    int32_t counter;
    /** The page's time scale: one of `enum vmclock_scale`, `VMCLOCK_SCALE_NONE` for those that no page may have. */
    int32_t scale;
    /** Where the reference time is relative to a leap second: as a rule one of `enum vmclock_leap`. */
    int32_t leap;
    /** TAI-UTC at the reference time in seconds, +37 since 2017; zero where `has_tai_offset` is. */
    int32_t tai_offset;
    /** 1 where TAI-UTC is known, otherwise 0. */
    uint32_t has_tai_offset;
    /** The page's sequence count, which is even, and other after each update. */
    uint32_t sequence;
    /** How many bytes the page's region has, as the page says. */
    uint32_t size;
    /** How a guest that wants a smeared UTC should smear: 0 not at all, 1 linearly from noon to noon, 2 as UTC-SLS. */
    uint32_t smearing_hint;
    /** Zero. */
    uint64_t reserved[4];
};

/** One thing that happened to the clock or to the machine. */
struct vmclock_event {
    /** What happened: one of `enum vmclock_event_kind`. */
    int32_t kind;
    /** Zero. */
    int32_t reserved;
    /** What it was before; of what, `kind` says. */
    uint64_t from;
    /** What it is now. */
    uint64_t to;
    /** The page before. */
    struct vmclock_state before;
    /** The page now; of one that vanished, what was last seen of it. */
    struct vmclock_state after;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a result code means, in a few words of English that stay valid forever; never NULL. `text` in `struct
 * vmclock_error` says more: it names the path, the value and the next step.
 */
const char *vmclock_result_text(int32_t code);

/**
 * Compares two intervals, which may come from different machines. `VMCLOCK_CANNOT_TELL` also where one is NULL or they
 * are on different scales. UTC goes back at a leap second in all but `leap_second`: compare in TAI.
 */
enum vmclock_order vmclock_interval_compare(const struct vmclock_interval *one,
                                            const struct vmclock_interval *other);

/**
 * Writes an instant as nanoseconds since its scale's epoch to `nanoseconds`. `VMCLOCK_ERROR_RANGE` where 64 bits do
 * not hold them, that is, before 1677-09-21 and after 2262-04-11. During a leap second it repeats the second before.
 */
enum vmclock_result vmclock_time_ns(const struct vmclock_time *time,
                                    int64_t *nanoseconds);

/**
 * Writes an instant as text to `buffer`, which has `size` bytes.
 *
 * UTC is as RFC 3339 has it, `2016-12-31T23:59:60.500000000Z`, leap second included; TAI and smeared UTC have their
 * name in place of the `Z`; monotonic time is in seconds. What does not fit is cut off, and the text ends with a zero.
 * Returns how long the whole text is without the zero, as `snprintf` does: with a `size` of 0, `buffer` may be NULL.
 */
size_t vmclock_time_format(const struct vmclock_time *time,
                           char *buffer,
                           size_t size);

/** The version of the library, as `0.1.0`; never NULL. */
const char *vmclock_version(void);

/**
 * Fills in the defaults, which `vmclock_open()` uses. `size` is `sizeof(struct vmclock_options)`; the macro
 * `VMCLOCK_OPTIONS_DEFAULT(options)` passes it. Does nothing where `options` is NULL.
 */
void vmclock_options_default(struct vmclock_options *options, size_t size);

/**
 * Opens the clock at `path`, a VMClock device or a plain file with a page in it; for NULL, the one that the
 * environment variable `VMCLOCK_PAGE` names, otherwise the first of `/dev/vmclock0` and `/run/vmclock/page` that
 * exists.
 *
 * On success `*clock` is the clock, to be closed with `vmclock_close()`; otherwise it is NULL. That a machine has no
 * VMClock is a normal case: `VMCLOCK_ERROR_NO_DEVICE`. For a plain file a SIGBUS handler is installed, in case the
 * file is cut short; it passes on whatever is not about a page.
 */
enum vmclock_result vmclock_open(const char *path,
                                 struct vmclock_clock **clock,
                                 struct vmclock_error *error);

/** Opens a clock as `vmclock_open()` does, with options. */
enum vmclock_result vmclock_open_with(const char *path,
                                      const struct vmclock_options *options,
                                      struct vmclock_clock **clock,
                                      struct vmclock_error *error);

/**
 * Opens the clock at the same path in the same way once more: what to do after `VMCLOCK_ERROR_VANISHED`. The old one
 * stays open until it is closed.
 */
enum vmclock_result vmclock_reopen(const struct vmclock_clock *clock,
                                   struct vmclock_clock **reopened,
                                   struct vmclock_error *error);

/** Closes a clock. NULL is allowed. No other thread may still use it; events that were opened on it stay open. */
void vmclock_close(struct vmclock_clock *clock);

/** Where the clock was opened, as an absolute path, valid until it is closed; NULL for NULL. */
const char *vmclock_path(const struct vmclock_clock *clock);

/** Whether the page is mapped. Otherwise every reading costs system calls. */
bool vmclock_is_mapped(const struct vmclock_clock *clock);

/**
 * Writes the time now, with its error bounds, to `reading`: no system call, no lock, no allocation.
 *
 * The counter is read after everything that the program loaded before, and before the page is checked to be still the
 * same: two readings by one thread, or by two that wait for one another, are in order. What the reading says, the
 * `vmclock_reading_` functions tell. On failure `reading` is no reading, and they all say so.
 *
 * `VMCLOCK_ERROR_NO_TIME` and `VMCLOCK_ERROR_BUSY` may pass. After `VMCLOCK_ERROR_VANISHED` and
 * `VMCLOCK_ERROR_NOT_A_PAGE` open the clock again. Where `error` is NULL, a reading of a mapped page may be taken in a
 * signal handler.
 */
enum vmclock_result vmclock_now(const struct vmclock_clock *clock,
                                struct vmclock_reading *reading,
                                struct vmclock_error *error);

/**
 * Writes the time now as `vmclock_now()` does, without ordering: at half the price, and some tens of nanoseconds early
 * or late relative to the instructions around it. For timing things, not for ordering them.
 */
enum vmclock_result vmclock_now_unordered(const struct vmclock_clock *clock,
                                          struct vmclock_reading *reading,
                                          struct vmclock_error *error);

/** Writes the machine's present epoch to `epoch`, for `vmclock_is_current()`. */
enum vmclock_result vmclock_get_epoch(const struct vmclock_clock *clock,
                                      struct vmclock_epoch *epoch,
                                      struct vmclock_error *error);

/**
 * Whether this is certainly still the same epoch: neither was the counter disrupted, nor the machine restored or
 * cloned.
 *
 * Takes a nanosecond or two, so that it can be called before every use of what must be unique. Where it is false,
 * something happened, or it cannot be known: call `vmclock_get_epoch()`, which tells why, *before* renewing what must
 * be unique, so that nothing that happens from then on is missed.
 */
bool vmclock_is_current(const struct vmclock_clock *clock,
                        const struct vmclock_epoch *epoch);

/** Writes the page without its calibration to `state`, whether or not it gives a time. */
enum vmclock_result vmclock_get_state(const struct vmclock_clock *clock,
                                      struct vmclock_state *state,
                                      struct vmclock_error *error);

/**
 * Whether the page is still the one at the path where the clock was opened, and still a page: `VMCLOCK_OK`, or how it
 * was lost.
 *
 * A reading does not find out: a file that was removed or replaced stays mapped, but no publisher writes to it any
 * more. Takes two or three system calls: call it now and then, or use events, which check as well.
 */
enum vmclock_result vmclock_check(const struct vmclock_clock *clock,
                                  struct vmclock_error *error);

/**
 * Between how many nanoseconds and how many the system's `CLOCK_REALTIME` is ahead of true UTC (negative: behind),
 * counting in the page's error bounds and the time that the comparison took.
 */
enum vmclock_result vmclock_realtime_ahead(const struct vmclock_clock *clock,
                                           int64_t *low_ns,
                                           int64_t *high_ns,
                                           struct vmclock_error *error);

/**
 * Waits until every clock has certainly passed `reading`: from then on no clock with true bounds, here or elsewhere,
 * gives a time that may be before it. That is a database's commit-wait. It takes about twice the maximum error; it
 * sleeps for most of that, and spins for the last 100 us.
 *
 * Gives up after `limit_ns` nanoseconds with `VMCLOCK_ERROR_TIMED_OUT`; with `VMCLOCK_ERROR_DISRUPTED` as soon as the
 * epoch is not the reading's any more, as what was to be committed may then be another machine's too; and as soon as
 * the page gives no time or states no bounds. `after`, if not NULL, gets a reading that is certainly after.
 */
enum vmclock_result vmclock_wait_until_after(const struct vmclock_clock *clock,
                                             const struct vmclock_reading *reading,
                                             uint64_t limit_ns,
                                             struct vmclock_reading *after,
                                             struct vmclock_error *error);

/**
 * Waits until every clock has certainly passed an instant in TAI, as that of another machine's commit. Gives up as
 * `vmclock_wait_until_after()` does; the epoch is that of the call.
 */
enum vmclock_result vmclock_wait_until_past(const struct vmclock_clock *clock,
                                            const struct vmclock_time *instant,
                                            uint64_t limit_ns,
                                            struct vmclock_reading *after,
                                            struct vmclock_error *error);

/**
 * Writes the time in TAI: what to compare with other machines, and to subtract. Not stated by a page on a monotonic
 * scale, and by a page in UTC without a TAI offset.
 */
enum vmclock_result vmclock_reading_tai(const struct vmclock_reading *reading,
                                        struct vmclock_time *time);

/**
 * Writes the time in UTC, also across a leap second that the page announces: `leap_second` is 1 during 23:59:60. Not
 * stated by a page on a monotonic scale, by a page in TAI without a TAI offset, and with a leap indicator that has no
 * meaning.
 */
enum vmclock_result vmclock_reading_utc(const struct vmclock_reading *reading,
                                        struct vmclock_time *time);

/**
 * Writes the time on a UTC smeared around leap seconds in one of the ways of `enum vmclock_smearing`. Not stated where
 * UTC is not, nor as hinted by a page that hints at none.
 */
enum vmclock_result vmclock_reading_smeared_utc(const struct vmclock_reading *reading,
                                                int32_t smearing,
                                                struct vmclock_time *time);

/** Writes the time on the page's own scale, which `scale` of the result names: TAI, UTC or monotonic. */
enum vmclock_result vmclock_reading_time(const struct vmclock_reading *reading, struct vmclock_time *time);

/**
 * Writes the interval that contains true time, in TAI. Not stated where TAI is not, and by a page without maximum
 * error.
 */
enum vmclock_result vmclock_reading_tai_interval(const struct vmclock_reading *reading,
                                                 struct vmclock_interval *interval);

/** Writes the interval that contains true time, on the page's own scale. Not stated by a page without maximum error. */
enum vmclock_result vmclock_reading_interval(const struct vmclock_reading *reading,
                                             struct vmclock_interval *interval);

/**
 * Writes the maximum error in nanoseconds, to either side, rounded up; `UINT64_MAX` stands for all that is greater.
 * Not stated by a page without maximum error.
 */
enum vmclock_result vmclock_reading_max_error_ns(const struct vmclock_reading *reading,
                                                 uint64_t *nanoseconds);

/**
 * Writes TAI-UTC at this reading, in seconds: +37 since 2017, and during 23:59:60 what it was before. Not stated where
 * TAI or UTC is not.
 */
enum vmclock_result vmclock_reading_tai_offset(const struct vmclock_reading *reading,
                                               int32_t *seconds);

/** Writes the epoch, to compare with others. */
enum vmclock_result vmclock_reading_epoch(const struct vmclock_reading *reading, struct vmclock_epoch *epoch);

/**
 * How far the clock could be trusted: `VMCLOCK_STATUS_SYNCHRONIZED` or `VMCLOCK_STATUS_FREE_RUNNING`, as with the
 * others there is no reading; `VMCLOCK_STATUS_UNKNOWN` for what is no reading.
 */
int32_t vmclock_reading_status(const struct vmclock_reading *reading);

/** The value of the CPU's counter at this reading; zero for what is no reading. */
uint64_t vmclock_reading_counter(const struct vmclock_reading *reading);

/**
 * Compares two readings by true time. Readings of different pages are compared in TAI, and so are readings on either
 * side of a restore or a migration. `VMCLOCK_CANNOT_TELL` also where one has no error bounds, or is no reading.
 */
enum vmclock_order vmclock_compare(const struct vmclock_reading *one,
                                   const struct vmclock_reading *other);

/**
 * Whether `one` was certainly taken before `other`, by true time. False where it was not, and where nobody can tell.
 */
bool vmclock_certainly_before(const struct vmclock_reading *one,
                              const struct vmclock_reading *other);

/**
 * Opens the events of a clock's machine, from now on. `flags` is 0 or `VMCLOCK_EVENTS_REFRESHES`.
 *
 * On success `*events` is to be closed with `vmclock_events_close()`; otherwise it is NULL. The clock may be closed
 * before.
 */
enum vmclock_result vmclock_events_open(const struct vmclock_clock *clock,
                                        uint32_t flags,
                                        struct vmclock_events **events,
                                        struct vmclock_error *error);

/** Closes events, and their file descriptor. NULL is allowed. */
void vmclock_events_close(struct vmclock_events *events);

/**
 * A file descriptor for poll(2) or epoll(7), which stays the library's own: readable whenever it is time to call
 * `vmclock_events_next()` with a timeout of zero, until that returns `VMCLOCK_ERROR_TIMED_OUT`. -1 for NULL.
 */
int vmclock_events_fd(const struct vmclock_events *events);

/**
 * Waits for the next event, for `timeout_ns` nanoseconds, or without a limit where that is negative, and writes it to
 * `event`. `VMCLOCK_ERROR_TIMED_OUT` when time is up. Several events at once are normal: a restore usually also
 * disrupts.
 *
 * Other errors are no end: the next call tries again.
 */
enum vmclock_result vmclock_events_next(struct vmclock_events *events,
                                        int64_t timeout_ns,
                                        struct vmclock_event *event,
                                        struct vmclock_error *error);

/**
 * How often to poll a page whose device does not notify, and the path of a page that vanished: every 10 ms by default,
 * and at most every 100 us.
 */
enum vmclock_result vmclock_events_set_interval(struct vmclock_events *events,
                                                uint64_t nanoseconds,
                                                struct vmclock_error *error);

/** Whether the device wakes who waits, rather than a timer. False for NULL. */
bool vmclock_events_notified(const struct vmclock_events *events);

/**
 * Gives a clock of its own for the page that is watched, to be closed with `vmclock_close()`: after
 * `VMCLOCK_EVENT_RETURNED` another than the one that the events were opened on.
 */
enum vmclock_result vmclock_events_clock(const struct vmclock_events *events,
                                         struct vmclock_clock **clock,
                                         struct vmclock_error *error);

/**
 * The one word for an event, as the `vmclock` command has it: `disrupted`, `restored`, `maintenance-soon`,
 * `maintenance-imminent`, `maintenance-cleared`, `status`, `counter`, `time-scale`, `refreshed`, `vanished`,
 * `returned`; `unknown` for NULL and for what this version does not know. Stays valid forever.
 */
const char *vmclock_event_name(const struct vmclock_event *event);

/**
 * Writes what a copy of a page says at a value of its counter to `reading`: for recordings, tests and tools. Where
 * somebody writes to the page meanwhile, it is no copy: open it as a clock.
 *
 * `page` has `length` bytes, of which the first 112 matter. `counter_id` says which counter the CPU has, one of `enum
 * vmclock_counter`; a page about another one gives no time.
 */
enum vmclock_result vmclock_page_reading(const void *page,
                                         size_t length,
                                         uint64_t counter,
                                         int32_t counter_id,
                                         struct vmclock_reading *reading,
                                         struct vmclock_error *error);

/** Writes what a copy of a page says without its calibration to `state`, whether or not it gives a time. */
enum vmclock_result vmclock_page_state(const void *page,
                                       size_t length,
                                       struct vmclock_state *state,
                                       struct vmclock_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMCLOCK_H */

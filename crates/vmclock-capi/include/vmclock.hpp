/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * libvmclock for C++17: the same as vmclock.h, with owners, exceptions and std::chrono. Header-only: link libvmclock.
 *
 *     auto clock = vmclock::clock::open();                  // throws vmclock::error
 *     auto before = clock.now();
 *     commit();
 *     if (before.certainly_before(clock.now())) { ... }     // whatever the clocks of others say: this order is true
 *
 * What C++ adds costs nothing: a vmclock::reading is a struct vmclock_reading. What a page does not state is an empty
 * std::optional. Threads: as vmclock.h says.
 */
#ifndef VMCLOCK_HPP
#define VMCLOCK_HPP

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "vmclock.h"

namespace vmclock {

/** What went wrong: what() says it for people. */
class error : public std::runtime_error {
public:
    error(vmclock_result code, const vmclock_error &full)
        : std::runtime_error(full.text), code_(code), reason_(full.reason), errno_(full.system_errno) {}

    vmclock_result code() const noexcept { return code_; }
    /** Why there is no time: one of enum vmclock_no_time. */
    int reason() const noexcept { return reason_; }
    int system_errno() const noexcept { return errno_; }

private:
    vmclock_result code_;
    int reason_;
    int errno_;
};

/** TAI, from 1970-01-01 00:00:00 TAI on, in nanoseconds: 1677 to 2262. A scale, not a clock: it has no now(). */
struct tai {
    using duration = std::chrono::nanoseconds;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<tai>;
    static constexpr bool is_steady = false;
};

/** Where true time is: nowhere before earliest, nowhere after latest. */
struct interval {
    tai::time_point earliest;
    tai::time_point latest;

    bool contains(tai::time_point instant) const noexcept { return earliest <= instant && instant <= latest; }
    std::chrono::nanoseconds width() const noexcept { return latest - earliest; }
    /** Also of an interval that another machine has sent. */
    bool certainly_before(const interval &other) const noexcept { return latest < other.earliest; }
};

namespace detail {
inline std::optional<std::chrono::nanoseconds> nanoseconds(const vmclock_time &time) noexcept {
    std::int64_t count = 0;
    if (vmclock_time_ns(&time, &count) != VMCLOCK_OK)
        return std::nullopt;
    return std::chrono::nanoseconds(count);
}
} // namespace detail

/** The time at one moment, with its error bounds and the rest of the page at that moment. */
class reading {
public:
    /** No reading yet: it states nothing. */
    reading() noexcept : raw_{} {}

    /** TAI: what to compare with other machines, and to subtract. */
    std::optional<tai::time_point> tai_time() const noexcept {
        vmclock_time time;
        if (vmclock_reading_tai(&raw_, &time) != VMCLOCK_OK)
            return std::nullopt;
        const auto since = detail::nanoseconds(time);
        return since ? std::optional(tai::time_point(*since)) : std::nullopt;
    }

    /** UTC, with a flag for the leap second 23:59:60. */
    std::optional<vmclock_time> utc() const noexcept {
        vmclock_time time;
        return vmclock_reading_utc(&raw_, &time) == VMCLOCK_OK ? std::optional(time) : std::nullopt;
    }

    /** UTC as POSIX counts it: what std::chrono::system_clock would give were it right. */
    std::optional<std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>>
    system_time() const noexcept {
        const auto time = utc();
        const auto since = time ? detail::nanoseconds(*time) : std::nullopt;
        if (!since)
            return std::nullopt;
        return std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>(*since);
    }

    /** The interval that contains true time, in TAI. */
    std::optional<interval> tai_interval() const noexcept {
        vmclock_interval ends;
        if (vmclock_reading_tai_interval(&raw_, &ends) != VMCLOCK_OK)
            return std::nullopt;
        const auto earliest = detail::nanoseconds(ends.earliest), latest = detail::nanoseconds(ends.latest);
        if (!earliest || !latest)
            return std::nullopt;
        return interval{tai::time_point(*earliest), tai::time_point(*latest)};
    }

    /** The maximum error to either side; empty also where it exceeds 292 years. */
    std::optional<std::chrono::nanoseconds> max_error() const noexcept {
        std::uint64_t count = 0;
        if (vmclock_reading_max_error_ns(&raw_, &count) != VMCLOCK_OK || count > INT64_MAX)
            return std::nullopt;
        return std::chrono::nanoseconds(static_cast<std::int64_t>(count));
    }

    /** TAI-UTC: +37 s since 2017. */
    std::optional<std::chrono::seconds> tai_offset() const noexcept {
        std::int32_t count = 0;
        if (vmclock_reading_tai_offset(&raw_, &count) != VMCLOCK_OK)
            return std::nullopt;
        return std::chrono::seconds(count);
    }

    /** Whether this was certainly taken before the other, by true time. */
    bool certainly_before(const reading &other) const noexcept { return vmclock_certainly_before(&raw_, &other.raw_); }
    bool certainly_after(const reading &other) const noexcept { return other.certainly_before(*this); }

    vmclock_epoch epoch() const noexcept {
        vmclock_epoch epoch;
        vmclock_reading_epoch(&raw_, &epoch); // of what is no reading: no epoch
        return epoch;
    }

    /** One of enum vmclock_status. */
    int status() const noexcept { return vmclock_reading_status(&raw_); }
    std::uint64_t counter() const noexcept { return vmclock_reading_counter(&raw_); }

    /** For the functions of vmclock.h. */
    const vmclock_reading *get() const noexcept { return &raw_; }
    vmclock_reading *get() noexcept { return &raw_; }

private:
    vmclock_reading raw_;
};

class events;

/** An open clock. Movable; any number of threads may use one. */
class clock {
public:
    /** The machine's own clock. */
    static clock open() { return open_raw(nullptr, nullptr); }
    /** A VMClock device, or a plain file with a page in it. */
    static clock open(const std::string &path) { return open_raw(path.c_str(), nullptr); }
    static clock open(const std::string &path, const vmclock_options &options) {
        return open_raw(path.c_str(), &options);
    }

    /** The time now, with its error bounds. */
    reading now() const {
        reading result;
        vmclock_error full;
        check_result(vmclock_now(raw_.get(), result.get(), &full), full);
        return result;
    }

    /** The same without ordering, at half the price. */
    reading now_unordered() const {
        reading result;
        vmclock_error full;
        check_result(vmclock_now_unordered(raw_.get(), result.get(), &full), full);
        return result;
    }

    /** now() without exceptions. */
    vmclock_result try_now(reading &result) const noexcept { return vmclock_now(raw_.get(), result.get(), nullptr); }

    /** Commit-wait: until every clock has certainly passed a reading; gives one that is certainly after it. */
    reading wait_until_after(const reading &passed, std::chrono::nanoseconds limit = std::chrono::seconds(10)) const {
        reading after;
        vmclock_error full;
        const auto count = static_cast<std::uint64_t>(limit.count() < 0 ? 0 : limit.count());
        check_result(vmclock_wait_until_after(raw_.get(), passed.get(), count, after.get(), &full), full);
        return after;
    }

    vmclock_epoch epoch() const {
        vmclock_epoch epoch;
        vmclock_error full;
        check_result(vmclock_get_epoch(raw_.get(), &epoch, &full), full);
        return epoch;
    }

    /** Whether this is certainly still the same epoch. */
    bool is_current(const vmclock_epoch &epoch) const noexcept { return vmclock_is_current(raw_.get(), &epoch); }

    vmclock_state state() const {
        vmclock_state state;
        vmclock_error full;
        check_result(vmclock_get_state(raw_.get(), &state, &full), full);
        return state;
    }

    /** Throws where the page is not the published one any more. */
    void check() const {
        vmclock_error full;
        check_result(vmclock_check(raw_.get(), &full), full);
    }

    clock reopen() const {
        vmclock_clock *raw;
        vmclock_error full;
        check_result(vmclock_reopen(raw_.get(), &raw, &full), full);
        return clock(raw);
    }

    std::string path() const { return vmclock_path(raw_.get()); }
    bool is_mapped() const noexcept { return vmclock_is_mapped(raw_.get()); }

    /** For the functions of vmclock.h. */
    const vmclock_clock *get() const noexcept { return raw_.get(); }

private:
    friend class events;

    struct closer {
        void operator()(vmclock_clock *raw) const noexcept { vmclock_close(raw); }
    };

    explicit clock(vmclock_clock *raw) noexcept : raw_(raw) {}

    static clock open_raw(const char *path, const vmclock_options *options) {
        vmclock_clock *raw;
        vmclock_error full;
        check_result(options ? vmclock_open_with(path, options, &raw, &full) : vmclock_open(path, &raw, &full), full);
        return clock(raw);
    }

    static void check_result(vmclock_result result, const vmclock_error &full) {
        if (result != VMCLOCK_OK)
            throw error(result, full);
    }

    std::unique_ptr<vmclock_clock, closer> raw_;
};

/** The events of a machine, from the moment when this was made. Movable; for one thread at a time. */
class events {
public:
    explicit events(const clock &of, std::uint32_t flags = 0) {
        vmclock_events *raw;
        vmclock_error full;
        clock::check_result(vmclock_events_open(of.get(), flags, &raw, &full), full);
        raw_.reset(raw);
    }

    /** Waits for the next event; empty when time is up. */
    std::optional<vmclock_event> next(std::chrono::nanoseconds timeout) {
        return next_raw(timeout.count() < 0 ? 0 : timeout.count());
    }
    /** Waits for the next event without a limit. */
    vmclock_event next() { return *next_raw(-1); }

    /** Readable whenever it is time to call next() with a timeout of zero, until that is empty. */
    int fd() const noexcept { return vmclock_events_fd(raw_.get()); }
    bool notified() const noexcept { return vmclock_events_notified(raw_.get()); }

    void set_interval(std::chrono::nanoseconds interval) {
        vmclock_error full;
        const auto count = static_cast<std::uint64_t>(interval.count() < 0 ? 0 : interval.count());
        clock::check_result(vmclock_events_set_interval(raw_.get(), count, &full), full);
    }

    /** A clock of one's own for the page that is watched. */
    clock watched() const {
        vmclock_clock *raw;
        vmclock_error full;
        clock::check_result(vmclock_events_clock(raw_.get(), &raw, &full), full);
        return clock(raw);
    }

private:
    struct closer {
        void operator()(vmclock_events *raw) const noexcept { vmclock_events_close(raw); }
    };

    std::optional<vmclock_event> next_raw(std::int64_t timeout_ns) {
        vmclock_event event;
        vmclock_error full;
        const vmclock_result result = vmclock_events_next(raw_.get(), timeout_ns, &event, &full);
        if (result == VMCLOCK_ERROR_TIMED_OUT)
            return std::nullopt;
        clock::check_result(result, full);
        return event;
    }

    std::unique_ptr<vmclock_events, closer> raw_;
};

} // namespace vmclock

#endif

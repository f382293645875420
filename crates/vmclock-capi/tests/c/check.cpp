// SPDX-License-Identifier: MIT OR Apache-2.0
// The checks of vmclock.hpp: `check-cpp PAGE`, a page that `vmclock serve` publishes with this machine's clock.
#include <vmclock.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define CHECK(condition) check((condition), #condition, __LINE__)

static void check(bool holds, const char *condition, int line) {
    if (!holds) {
        std::fprintf(stderr, "check.cpp:%d: this does not hold: %s\n", line, condition);
        std::exit(1);
    }
}

static_assert(sizeof(vmclock::reading) == sizeof(vmclock_reading) && std::is_trivially_copyable_v<vmclock::reading>);
static_assert(std::is_nothrow_move_constructible_v<vmclock::clock> && !std::is_copy_constructible_v<vmclock::clock>);
static_assert(std::is_nothrow_move_constructible_v<vmclock::events> && !std::is_copy_constructible_v<vmclock::events>);

static void run(const std::string &page) {
    using namespace std::chrono;

    vmclock::clock clock = vmclock::clock::open(page);
    CHECK(clock.is_mapped() && clock.path() == page);
    vmclock::clock moved = std::move(clock);
    const auto before = system_clock::now().time_since_epoch();
    const vmclock::reading reading = moved.now();
    const auto after = system_clock::now().time_since_epoch();
    const auto ends = reading.tai_interval();
    CHECK(ends && ends->contains(*reading.tai_time()));
    CHECK(ends->earliest.time_since_epoch() - seconds(37) <= after);
    CHECK(before <= ends->latest.time_since_epoch() - seconds(37));
    CHECK(ends->width() <= 2 * *reading.max_error() + nanoseconds(1));
    CHECK(reading.tai_offset() == seconds(37) && reading.status() == VMCLOCK_STATUS_SYNCHRONIZED);
    CHECK(reading.system_time()->time_since_epoch() == reading.tai_time()->time_since_epoch() - seconds(37));
    CHECK(reading.utc()->leap_second == 0);

    vmclock::reading later;
    CHECK(!later.tai_time() && !later.tai_interval() && !reading.certainly_before(later));
    do {
        CHECK(moved.try_now(later) == VMCLOCK_OK);
    } while (!reading.certainly_before(later));
    CHECK(later.certainly_after(reading) && reading.tai_interval()->certainly_before(*later.tai_interval()));
    CHECK(moved.now_unordered().counter() > reading.counter());

    CHECK(moved.wait_until_after(later).certainly_after(later));

    const vmclock_epoch epoch = moved.epoch();
    CHECK(moved.is_current(epoch) && moved.is_current(reading.epoch()));
    CHECK(moved.state().epoch.disruption_marker == epoch.disruption_marker);
    moved.check();
    CHECK(moved.reopen().now().counter() > reading.counter());

    vmclock::events events(moved);
    vmclock::events moved_events = std::move(events);
    moved_events.set_interval(milliseconds(5));
    CHECK(moved_events.fd() >= 0 && moved_events.watched().path() == page);
    CHECK(!moved_events.next(nanoseconds(-5)));

    vmclock_options options;
    VMCLOCK_OPTIONS_DEFAULT(&options);
    options.flags = VMCLOCK_OPEN_UNMAPPED;
    CHECK(!vmclock::clock::open(page, options).is_mapped());

    std::vector<std::thread> threads;
    for (int index = 0; index < 3; index++)
        threads.emplace_back([&moved] {
            for (int round = 0; round < 5000; round++)
                moved.now();
        });
    for (auto &thread : threads)
        thread.join();

    try {
        vmclock::clock::open(page + "-of-nobody");
        CHECK(false);
    } catch (const vmclock::error &error) {
        CHECK(error.code() == VMCLOCK_ERROR_NO_FILE && error.reason() == 0 && error.system_errno() == 0);
        CHECK(std::string(error.what()).find(page) != std::string::npos);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: check-cpp PAGE\n");
        return 2;
    }
    try {
        run(arguments[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "check.cpp: %s\n", error.what());
        return 1;
    }
    std::printf("C++\n");
    return 0;
}

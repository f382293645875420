// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/metrics`: in the text format of Prometheus, and in `OpenMetrics` where that is asked for. `docs/exporter.md` lists
//! them.

use std::fmt::{Display, Write};

use crate::poller::Answers;
use crate::tally::Tally;

const STATUSES: [&str; 5] = ["unknown", "initializing", "synchronized", "free-running", "unreliable"];
const STANDINGS: [&str; 4] = ["selected", "falseticker", "candidate", "unreachable"];
const INDICATORS: [&str; 6] = ["none", "pre-positive", "pre-negative", "positive", "post-positive", "post-negative"];

/// Which text format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Format {
    /// Prometheus' own.
    Plain,
    /// `OpenMetrics`.
    Open,
}

impl Format {
    /// The type of what [`render`] makes.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the exporter counts of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Own {
    /// How often the service did not answer.
    pub(crate) errors: u64,
    /// How many connections were closed for others.
    pub(crate) dropped: u64,
}

/// All metrics. Without answers there are those of the exporter, and what it counted. With more guests than
/// `most_guests` there is none for each guest.
pub(crate) fn render(answers: Option<&Answers>, tally: &Tally, own: Own, most_guests: usize, format: Format) -> String {
    let mut page = Page { text: String::new(), is_open: format == Format::Open };
    page.gauge("vmclock_up", "Whether the service answered this scrape.").value(&[], u8::from(answers.is_some()));
    exporter(&mut page, tally, own);
    events(&mut page, tally);
    if let Some(answers) = answers {
        service(&mut page, answers);
        sources(&mut page, answers);
        guests(&mut page, answers, tally, most_guests);
    }
    if page.is_open {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn exporter(page: &mut Page, tally: &Tally, own: Own) {
    page.gauge("vmclock_exporter_build_info", "1, with the exporter's version.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.counter("vmclock_exporter_scrape_errors", "How often the service did not answer.").value(&[], own.errors);
    page.counter("vmclock_exporter_dropped_connections", "How many connections were closed for newer ones.")
        .value(&[], own.dropped);
    page.counter("vmclock_exporter_event_gaps", "How often events may have been missed and not counted.")
        .value(&[], tally.gaps());
}

fn events(page: &mut Page, tally: &Tally) {
    let mut family = page.counter("vmclock_events", "How often each event of the service came.");
    for (name, count) in tally.events() {
        family.value(&[("event", name)], count);
    }
    let mut family = page.counter("vmclock_guests_steps", "How often each lifecycle step happened to any guest.");
    for (step, count) in tally.steps() {
        family.value(&[("step", step)], count);
    }
}

fn service(page: &mut Page, answers: &Answers) {
    let tracking = &answers.tracking;
    page.gauge("vmclock_status", "1 for the status of the published clock, 0 for the others.").states(
        &[],
        "status",
        &STATUSES,
        &tracking.status,
    );
    page.gauge("vmclock_leap_indicator", "1 for the leap indicator of the host's page, 0 for the others.").states(
        &[],
        "indicator",
        &INDICATORS,
        &tracking.leap_indicator,
    );
    page.gauge("vmclock_max_error_seconds", "Maximum error of the time now.")
        .known(&[], tracking.max_error_ns.map(seconds));
    page.gauge("vmclock_estimated_error_seconds", "Estimated error of the time at the last update.")
        .known(&[], tracking.estimated_error_ns.map(seconds));
    page.gauge("vmclock_frequency_error_ratio", "The counter's frequency against the kernel's at boot, minus 1.")
        .known(&[], tracking.frequency_ppm.map(|ppm| ppm / 1e6));
    page.gauge("vmclock_drift_ratio", "The frequency wander that is assumed now.").value(&[], tracking.drift_ppm / 1e6);
    page.gauge("vmclock_tai_minus_utc_seconds", "TAI-UTC. Absent where it is unknown.")
        .known(&[], tracking.tai_minus_utc);
    page.gauge("vmclock_update_age_seconds", "Since the pages were last brought up to date.")
        .known(&[], tracking.update_age_ns.map(seconds));
    page.gauge("vmclock_clocks", "How many clocks are configured.").value(&[], tracking.clocks);
}

fn sources(page: &mut Page, answers: &Answers) {
    let sources = || answers.sources.iter().map(|source| (source, [("source", source.source.as_str())]));
    let mut family = page.gauge("vmclock_source_standing", "1 for how a source is used, 0 for the others.");
    for (source, labels) in sources() {
        family.states(&labels, "standing", &STANDINGS, &source.standing);
    }
    let mut family = page.gauge("vmclock_source_reachable_ratio", "In how many of the last eight rounds it answered.");
    for (source, labels) in sources() {
        family.value(&labels, f64::from(source.reach.count_ones()) / 8.0);
    }
    let mut family = page.gauge("vmclock_source_offset_seconds", "How far ahead of the published clock it was.");
    for (source, labels) in sources() {
        family.known(&labels, source.offset_ns.map(|nanos| nanos / 1e9));
    }
    let mut family = page.gauge("vmclock_source_max_error_seconds", "Its own maximum error at its last measurement.");
    for (source, labels) in sources() {
        family.known(&labels, source.max_error_ns.map(seconds));
    }
    let mut family = page.gauge("vmclock_source_age_seconds", "Since its last measurement.");
    for (source, labels) in sources() {
        family.known(&labels, source.age_ns.map(seconds));
    }
}

fn guests(page: &mut Page, answers: &Answers, tally: &Tally, most_guests: usize) {
    let mut family = page.gauge("vmclock_guests", "How many guests have a page of this status.");
    for status in STATUSES {
        let count = answers.guests.iter().filter(|guest| guest.state.clock_status == status).count();
        family.value(&[("status", status)], count);
    }
    let worst = answers.guests.iter().filter_map(|guest| guest.state.max_error_ns).max();
    page.gauge("vmclock_guests_max_error_seconds", "The largest maximum error of all guests' pages.")
        .known(&[], worst.map(seconds));
    let is_limited = answers.guests.len() > most_guests;
    page.gauge(
        "vmclock_guests_limited",
        "Whether there are more guests than --most-guests: no metrics for each guest.",
    )
    .value(&[], u8::from(is_limited));
    if is_limited {
        return;
    }
    let guests = || answers.guests.iter().map(|guest| (&guest.state, [("guest", guest.guest.as_str())]));
    let mut family = page.gauge("vmclock_guest_status", "1 for the status of the guest's page, 0 for the others.");
    for (state, labels) in guests() {
        family.states(&labels, "status", &STATUSES, &state.clock_status);
    }
    let mut family = page.gauge("vmclock_guest_max_error_seconds", "Maximum error at the page's reference time.");
    for (state, labels) in guests() {
        family.known(&labels, state.max_error_ns.map(seconds));
    }
    let mut family = page.gauge("vmclock_guest_seq_count", "The sequence count of the guest's page, modulo 2^32.");
    for (state, labels) in guests() {
        family.value(&labels, state.seq_count);
    }
    let mut family = page.counter("vmclock_guest_steps", "How often a lifecycle step happened to the guest.");
    for guest in &answers.guests {
        let name = guest.guest.as_str();
        for (step, count) in tally.steps_of(name) {
            family.value(&[("guest", name), ("step", step)], count);
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Prometheus has no other numbers
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

struct Page {
    text: String,
    is_open: bool,
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", "", help)
    }

    /// Its name without `_total`.
    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", "_total", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, suffix: &'static str, help: &str) -> Family<'_> {
        // In OpenMetrics the family's name is without the suffix. Writing to a String cannot fail.
        let of_family = if self.is_open { "" } else { suffix };
        let _ = write!(self.text, "# HELP {name}{of_family} {help}\n# TYPE {name}{of_family} {kind}\n");
        Family { text: &mut self.text, name, suffix }
    }
}

struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

impl Family<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}{}{labels} {value}", self.name, self.suffix);
    }

    /// What is unknown is absent.
    fn known(&mut self, labels: &[(&str, &str)], value: Option<impl Display>) {
        if let Some(value) = value {
            self.value(labels, value);
        }
    }

    fn states(&mut self, labels: &[(&str, &str)], name: &str, states: &[&str], current: &str) {
        for state in states {
            self.value(&[labels, &[(name, *state)]].concat(), u8::from(*state == current));
        }
    }
}

/// A label's value, as both formats escape it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::answers;
    use serde_json::json;

    fn plain(answers: Option<&Answers>, most_guests: usize) -> String {
        let mut tally = Tally::default();
        for guest in ["web \"7\\", "another"] {
            tally.note(&json!({"event": "guest-step", "guest": guest, "step": "restored", "text": ""}));
        }
        render(answers, &tally, Own { errors: 3, dropped: 2 }, most_guests, Format::Plain)
    }

    #[test]
    fn values_are_in_base_units_and_labels_are_escaped() {
        let text = plain(Some(&answers()), 1);
        for line in [
            "vmclock_up 1",
            "# TYPE vmclock_exporter_scrape_errors_total counter",
            "vmclock_exporter_scrape_errors_total 3",
            "vmclock_exporter_dropped_connections_total 2",
            "vmclock_exporter_event_gaps_total 0",
            "vmclock_events_total{event=\"holdover\"} 0",
            "vmclock_guests_steps_total{step=\"restored\"} 2",
            "vmclock_guests_steps_total{step=\"paused\"} 0",
            "vmclock_guest_steps_total{guest=\"web \\\"7\\\\\",step=\"restored\"} 1",
            "vmclock_status{status=\"synchronized\"} 1",
            "vmclock_status{status=\"unreliable\"} 0",
            "vmclock_max_error_seconds 0.0000015",
            "vmclock_frequency_error_ratio -0.000002",
            "vmclock_tai_minus_utc_seconds 37",
            "vmclock_update_age_seconds 0.25",
            "vmclock_source_standing{source=\"a\",standing=\"falseticker\"} 1",
            "vmclock_source_reachable_ratio{source=\"a\"} 0.25",
            "vmclock_source_offset_seconds{source=\"a\"} -0.5",
            "vmclock_guests{status=\"synchronized\"} 1",
            "vmclock_guests_limited 0",
            "vmclock_guest_max_error_seconds{guest=\"web \\\"7\\\\\"} 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
        let absent = [
            "vmclock_estimated_error_seconds",
            "vmclock_source_max_error_seconds",
            "vmclock_guest_steps_total{guest=\"another",
        ];
        assert!(!text.lines().any(|line| absent.iter().any(|name| line.starts_with(name))), "unknown: {text}");
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn too_many_guests_are_counted_only() {
        let text = plain(Some(&answers()), 0);
        assert!(text.contains("vmclock_guests_limited 1\n") && text.contains("vmclock_guests_max_error_seconds 2\n"));
        assert!(!text.contains("vmclock_guest_"), "{text}");
    }

    #[test]
    fn without_the_service_there_are_no_values_of_it() {
        let text = plain(None, 10);
        assert!(text.contains("vmclock_up 0\n") && text.contains("vmclock_guests_steps_total{step=\"restored\"} 2\n"));
        assert!(!text.contains("vmclock_status") && !text.contains("vmclock_guest_"), "{text}");
    }

    #[test]
    fn a_family_of_open_metrics_is_named_without_the_suffix_of_its_values() {
        let text = render(None, &Tally::default(), Own::default(), 10, Format::Open);
        assert!(text.contains("# TYPE vmclock_events counter\n") && text.ends_with("# EOF\n"), "{text}");
        assert!(text.contains("vmclock_events_total{event=\"holdover\"} 0\n"));
    }

    #[test]
    fn each_metric_is_of_the_number_of_series_that_the_documentation_states() {
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let mut answers = answers();
        answers.tracking.estimated_error_ns = Some(1);
        answers.sources[0].max_error_ns = Some(1);
        let quiet = render(Some(&answers), &Tally::default(), Own::default(), 10, Format::Plain);
        let source = quiet.lines().filter(|line| line.starts_with("vmclock_source_")).count();
        let guest = quiet.lines().filter(|line| line.starts_with("vmclock_guest_")).count();
        assert_eq!((source, guest, series(&quiet) - source - guest), (8, 7, 57));
    }
}

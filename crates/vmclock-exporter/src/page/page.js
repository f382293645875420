"use strict";
(() => {
  const INTERVAL_MS = 5000;
  const TIMEOUT_MS = 8000;
  const HOUR_MS = 3600000;
  const MOST_ROWS = 200;
  const TRACES = 6;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  // What is known.
  let past = { run: null, now_ms: 0, interval_ms: INTERVAL_MS, sources: [], points: [], events: [], event_gaps: 0 };
  let guests = [];

  // Text.

  const UNITS = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
  function nanos(value, digits = 3) {
    if (value === null || value === undefined) return "unknown";
    const size = Math.abs(value);
    const [scale, unit] = UNITS.find(([scale]) => size >= scale) || UNITS[3];
    return `${Number((value / scale).toPrecision(digits))} ${unit}`;
  }
  const bound = (value) => (value === null || value === undefined ? "unknown" : `± ${nanos(value)}`);
  const signed = (value) => (value > 0 ? "+" : "") + nanos(value);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const tone = (status) => ({ synchronized: "good", selected: "good", "free-running": "warn", initializing: "warn",
    candidate: "", unreachable: "warn" })[status] ?? "bad";

  // Elements. Text is never parsed.

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function shape(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  // Roles, as a table whose rows are cards on a phone has none of its own.
  function table(id, heads, rows) {
    const head = heads.map((text) => element("th", { scope: "col", role: "columnheader" }, text));
    const body = rows.map((cells) => element("tr", { role: "row" }, ...cells.map((cell, index) => {
      const [text, look] = Array.isArray(cell) ? cell : [cell, ""];
      const value = element("span", { class: look }, text);
      return index === 0
        ? element("th", { scope: "row", role: "rowheader" }, value)
        : element("td", { role: "cell", "data-label": heads[index] }, value);
    })));
    $(id).setAttribute("role", "table");
    $(id).replaceChildren(
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
      element("tbody", { role: "rowgroup" }, ...body));
  }

  // Charts.

  const span = () => {
    const oldest = past.points.length ? past.now_ms - past.points[0].at_ms : 0;
    return [60000, 300000, 900000].find((window) => oldest <= window) || HOUR_MS;
  };

  function chart(id, scale, paths, label) {
    const box = $(id);
    const width = Math.max(box.clientWidth, 200), height = Math.max(box.clientHeight, 100);
    const left = 64, right = 8, top = 8, bottom = 22;
    const window = span();
    const x = (at) => left + (1 - (past.now_ms - at) / window) * (width - left - right);
    const y = (value) => top + (1 - scale.at(value)) * (height - top - bottom);
    const drawn = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const [from, to, kind] of bands()) {
      const start = Math.max(x(from), left);
      drawn.append(shape("rect", { class: kind, x: start, y: top, width: Math.max(x(to) - start, 1),
        height: height - top - bottom }));
    }
    for (const tick of scale.ticks) {
      drawn.append(
        shape("line", { class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
        shape("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, scale.text(tick)));
    }
    const steps = width < 500 ? 3 : 6;
    for (let step = 0; step <= steps; step += 1) {
      const ago = (window * (steps - step)) / steps;
      const text = ago === 0 ? "now" : ago < 60000 ? `-${ago / 1000} s` : `-${Number((ago / 60000).toFixed(1))} min`;
      drawn.append(shape("text", { x: x(past.now_ms - ago), y: height - 6,
        "text-anchor": step === 0 ? "start" : step === steps ? "end" : "middle" }, text));
    }
    for (const { kind, value, floor } of paths) {
      for (const run of runs(value)) {
        const line = run.map(([at, number]) => `${x(at).toFixed(1)} ${y(number).toFixed(1)}`);
        if (floor) {
          const ground = height - bottom;
          const d = `M${x(run[0][0]).toFixed(1)} ${ground}L${line.join("L")}L${x(run.at(-1)[0]).toFixed(1)} ${ground}Z`;
          drawn.append(shape("path", { class: "area", d }));
        }
        // A point that stands alone is to be seen, too.
        const single = run.length === 1 ? "h2" : "";
        drawn.append(shape("path", { class: kind, d: `M${line.join("L")}${single}` }));
      }
    }
    const cursor = shape("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
    drawn.append(cursor);
    drawn.addEventListener("pointermove", (event) => {
      const ratio = (event.clientX - box.getBoundingClientRect().left - left) / (width - left - right);
      const point = nearest(past.now_ms - (1 - ratio) * window);
      if (!point) return;
      for (const [name, value] of [["x1", x(point.at_ms)], ["x2", x(point.at_ms)], ["visibility", "visible"]]) {
        cursor.setAttribute(name, value);
      }
      $(`${id}-readout`).textContent = `${clock(point.at_ms)}: ${describe(id, point)}`;
    });
    drawn.addEventListener("pointerleave", () => {
      cursor.setAttribute("visibility", "hidden");
      $(`${id}-readout`).textContent = "";
    });
    box.replaceChildren(drawn);
  }

  function nearest(at) {
    let best = null;
    for (const point of past.points) {
      if (!best || Math.abs(point.at_ms - at) < Math.abs(best.at_ms - at)) best = point;
    }
    return best;
  }

  function describe(id, point) {
    if (point.status === null) return "the service did not answer";
    if (id === "bound") return `${point.status}, ${bound(point.max_error_ns)}`;
    const known = past.sources.map((name, index) => [name, point.offsets_ns[index]])
      .filter(([, offset]) => offset !== null && offset !== undefined);
    return known.length ? known.map(([name, offset]) => `${name} ${signed(offset)}`).join(", ") : "no source answered";
  }

  // Pieces without a hole: where the service did not answer, or nothing was polled, nothing is drawn.
  function runs(value) {
    const pieces = [];
    let last = null;
    for (const point of past.points) {
      const number = value(point);
      if (number === null || number === undefined) { last = null; continue; }
      if (last === null || point.at_ms - last > 3 * past.interval_ms + 3000) pieces.push([]);
      pieces.at(-1).push([point.at_ms, number]);
      last = point.at_ms;
    }
    return pieces;
  }

  // When the clock was not synchronized, and when the service did not answer.
  function bands() {
    const found = [];
    past.points.forEach((point, index) => {
      const kind = point.status === null ? "unreachable" : point.status === "synchronized" ? null : "unsynchronized";
      const end = index + 1 < past.points.length ? past.points[index + 1].at_ms : past.now_ms;
      const last = found.at(-1);
      if (kind && last && last[2] === kind && last[1] === point.at_ms) last[1] = end;
      else if (kind) found.push([point.at_ms, end, kind]);
    });
    return found;
  }

  function decades(values) {
    const known = values.filter((value) => value > 0);
    const low = Math.floor(Math.log10(Math.min(...known, ...(known.length ? [] : [1]))));
    const high = Math.max(Math.ceil(Math.log10(Math.max(...known, ...(known.length ? [] : [10])))), low + 1);
    const step = Math.ceil((high - low) / 5);
    const ticks = [];
    for (let power = low; power <= high; power += step) ticks.push(10 ** power);
    return { ticks, text: (tick) => nanos(tick), at: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
  }

  function linear(values) {
    const low = Math.min(0, ...values), high = Math.max(0, ...values);
    const size = high - low || 1;
    const raw = size / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
    const first = Math.floor(low / step), last = Math.max(Math.ceil(high / step), first + 1);
    const ticks = [];
    for (let number = first; number <= last; number += 1) ticks.push(number * step);
    return { ticks, text: (tick) => nanos(tick), at: (value) => (value / step - first) / (last - first) };
  }

  function draw() {
    const errors = past.points.map((point) => point.max_error_ns).filter((value) => value !== null);
    const now = errors.length ? `now ${bound(errors.at(-1))}, at most ${bound(Math.max(...errors))}` : "unknown";
    chart("bound", decades(errors), [{ kind: "line", value: (point) => point.max_error_ns, floor: true }],
      `Maximum error of the published time over ${plural(span() / 60000, "minute")}: ${now}`);
    const offsets = past.points.flatMap((point) => point.offsets_ns).filter((value) => value !== null);
    const paths = past.sources.map((_, index) => ({ kind: `trace trace-${index % TRACES}`,
      value: (point) => point.offsets_ns[index] ?? null }));
    const last = past.points.at(-1);
    chart("offset", linear(offsets), paths, `Offsets of the sources: ${last ? describe("offset", last) : "unknown"}`);
    $("legend").replaceChildren(...past.sources.map((name, index) => element("li", {},
      shape("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" },
        shape("path", { class: `trace trace-${index % TRACES}`, d: "M0 6H28" })),
      name)));
  }

  // Lists.

  const clock = (at) => new Date(Date.now() - (past.now_ms - at)).toLocaleTimeString();

  function showClock(tracking) {
    const facts = [
      ["Status", [tracking.status, tone(tracking.status)]],
      ["Maximum error now", [bound(tracking.max_error_ns), ""]],
      ["Estimated error", [bound(tracking.estimated_error_ns), ""]],
      ["Selected", [tracking.selected.join(", ") || "none", ""]],
      ["Configured clocks", [String(tracking.clocks), ""]],
      ["Frequency", [tracking.frequency_ppm === null ? "unknown" : `${tracking.frequency_ppm.toFixed(3)} ppm`, ""]],
      ["Frequency wander", [`${tracking.drift_ppm} ppm`, ""]],
      ["TAI-UTC", [tracking.tai_minus_utc === null ? "unknown" : `${tracking.tai_minus_utc} s`, ""]],
      ["Last update", [tracking.update_age_ns === null ? "none" : `${nanos(tracking.update_age_ns, 2)} ago`, ""]],
    ];
    $("clock").replaceChildren(...facts.map(([name, [text, look]]) => element("div", {},
      element("dt", {}, name), element("dd", { class: look }, text))));
  }

  function showSources(sources) {
    const answered = (reach) => `${reach.toString(2).replaceAll("0", "").length} of 8`;
    table("sources", ["Source", "Standing", "Answered", "Offset", "Its error", "Age", "Clock"], sources.map((source) => [
      source.source, [source.standing, tone(source.standing)], answered(source.reach),
      source.offset_ns === null ? "unknown" : signed(source.offset_ns), bound(source.max_error_ns),
      source.age_ns === null ? "never" : nanos(source.age_ns, 2), source.clock]));
  }

  function showGuests() {
    const wanted = $("filter").value.toLowerCase();
    const chosen = guests.filter((guest) => guest.guest.toLowerCase().includes(wanted));
    const counts = new Map();
    for (const guest of guests) counts.set(guest.clock_status, (counts.get(guest.clock_status) ?? 0) + 1);
    const parts = [...counts].map(([status, count]) => `${count} ${status}`).join(", ");
    $("tally").textContent = guests.length ? `${plural(guests.length, "guest")}: ${parts}.` : "There are no guests.";
    const shown = chosen.slice(0, MOST_ROWS);
    const steps = new Map();
    for (const event of past.events) if (event.guest) steps.set(event.guest, (steps.get(event.guest) ?? 0) + 1);
    table("guests", ["Guest", "Status", "Maximum error", "Last step", "Recent events", "Page"], shown.map((guest) => [
      guest.guest, [guest.clock_status, tone(guest.clock_status)], bound(guest.max_error_ns), guest.step ?? "none",
      String(steps.get(guest.guest) ?? 0), guest.page]));
    $("guests").hidden = shown.length === 0;
    $("guests-more").textContent = chosen.length > shown.length
      ? `${chosen.length - shown.length} more are not shown: narrow the name above, or read /status.json.` : "";
    const events = past.events.filter((event) => `${event.event} ${event.text}`.toLowerCase().includes(wanted));
    $("events").replaceChildren(...events.toReversed().map((event) => element("li", {},
      element("time", {}, clock(event.at_ms)), `${event.event}: ${event.text}`)));
    $("gaps").textContent = past.event_gaps
      ? `Events may have been missed ${past.event_gaps} times, when the service was not reachable.`
      : events.length ? "" : "None since the exporter's start.";
  }

  function summary(text, look) {
    if ($("summary").textContent !== text) $("summary").textContent = text;
    $("summary").className = look;
  }

  // News.

  async function read(path) {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    return answer.json();
  }

  function merge(news) {
    // The exporter was restarted, or this page slept for longer than recent news go back.
    const isSame = news.run === past.run && news.now_ms - past.now_ms < 50000;
    if (past.run !== null && !isSame) return false;
    const last = (list, key) => (list.length ? list.at(-1)[key] : -1);
    const points = news.points.filter((point) => point.at_ms > last(past.points, "at_ms"));
    const events = news.events.filter((event) => event.id > last(past.events, "id"));
    past = { ...news,
      points: [...past.points, ...points].filter((point) => point.at_ms > news.now_ms - HOUR_MS),
      events: [...past.events, ...events].slice(-200) };
    return true;
  }

  async function refresh() {
    try {
      const [status, news] = await Promise.all([read("/status.json"), read(past.run === null ? "/history.json" : "/recent.json")]);
      if (!merge(news)) {
        past = { ...past, run: null, points: [], events: [] };
        merge(await read("/history.json"));
      }
      if (status.up) {
        guests = status.guests;
        showClock(status.tracking);
        showSources(status.sources);
        const { status: word, max_error_ns: error } = status.tracking;
        summary(`${word}, ${bound(error)}, ${plural(guests.length, "guest")}`, tone(word));
      } else {
        summary(`The service does not answer: ${status.error}. What is shown below is old.`, "bad");
      }
      draw();
      showGuests();
    } catch (error) {
      summary(`The exporter does not answer (${error.name}). What is shown below is old.`, "bad");
    }
  }

  let timer = null;
  let isRefreshing = false;
  async function go() {
    if (isRefreshing) return;
    isRefreshing = true;
    clearTimeout(timer);
    await refresh();
    isRefreshing = false;
    if (!document.hidden) timer = setTimeout(go, Math.min(past.interval_ms, INTERVAL_MS));
  }
  $("filter").addEventListener("input", showGuests);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) go(); });
  new ResizeObserver(draw).observe($("bound"));
  go();
})();

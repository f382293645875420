// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two guests on one service, which is restarted; and one of them migrates to another service on this machine.

use anyhow::{ensure, Context, Result};

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::service::Service;
use crate::Lab;

use super::judge::Begun;
use super::{life, live, notify};

/// The guest's counter is asked for rarely.
const OPTIONS: [&str; 4] = ["--second-page", "--refresh", "10s", "--require-time"];

pub(super) fn run(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut here = Service::start(lab, "service-here")?;
    let there = Service::start(lab, "service-there")?;
    let outcome = guests(lab, kernel, &mut here, &there);
    outcome.map_err(|error| {
        let (here, there) = (here.log(), there.log());
        error.context(format!("the services said\n    {here}\n  and\n    {there}\n "))
    })
}

fn guests(lab: &Lab, kernel: &Kernel, here: &mut Service, there: &Service) -> Result<String> {
    let page = here.page();
    let on_it = Clock::Served(&page, &OPTIONS);
    let (mut one, _) = Machine::boot_calibrated(lab, kernel, "served-one", &on_it)?;
    let (mut two, _) = Machine::boot_calibrated(lab, kernel, "served-two", &on_it)?;
    let listed = here.guests(lab)?;
    let is_there =
        |name: &str| listed.iter().any(|guest| guest["guest"] == name && guest["clock_status"] == "synchronized");
    ensure!(listed.len() == 2 && is_there("served-one") && is_there("served-two"), "{listed:?}");

    let outcome = (|| {
        let fields = live::fields(&mut one)?;
        let paused = live::pause(lab, &mut one).context("paused and resumed")?;
        let restarted = restart(lab, here, &mut [&mut one, &mut two]).context("over the service's restart")?;
        let watched = notify::watch(lab, &mut two, "watch").context("notified")?;
        Ok(format!("{fields}; paused: {paused}; the service restarted: {restarted}; {watched}"))
    })();
    let figures = outcome.map_err(|error| two.explain(one.explain(error)))?;

    // The other guest sees nothing of that.
    let observation = Begun::begin(&mut two)?;
    let migrated = migrate(lab, kernel, one, there)?;
    ensure!(here.guests(lab)?.len() == 1, "a guest that migrated is still with the first service");
    let now = observation.guest_counter();
    let undisturbed = observation.end(&mut two, now)?.judge(lab, &[]).map_err(|error| two.explain(error))?;
    two.quit()?;
    ensure!(here.guests(lab)?.is_empty(), "a guest that ended is still with the service");
    Ok(format!("{figures}; migrated: {migrated}; the other: {undisturbed}"))
}

/// A planned restart of the service, while all its guests look at the time: no event, and no reading wrong.
fn restart(lab: &Lab, service: &mut Service, machines: &mut [&mut Machine; 2]) -> Result<String> {
    let mut observations = Vec::new();
    for machine in machines.iter_mut() {
        machine.forget_lines();
        observations.push(Begun::begin(machine)?);
    }
    service.restart(lab)?;
    let mut figures = Vec::new();
    for (machine, observation) in machines.iter_mut().zip(observations) {
        machine.wait_for("served")?;
        until("the page gives time again", PATIENCE, || Ok(machine.region()?.page()?.clock_status.gives_time()))?;
        let now = observation.guest_counter();
        figures.push(observation.end(machine, now)?.judge(lab, &[])?);
    }
    Ok(figures.join("; "))
}

/// A live migration to a guest of another service: one disruption, and no reading wrong.
fn migrate(lab: &Lab, kernel: &Kernel, mut source: Machine, there: &Service) -> Result<String> {
    let observation = Begun::begin(&mut source)?;
    let generation = source.region()?.page()?.vm_generation_counter;
    let socket = source.path("migration");
    let uri = format!("unix:{}", socket.display());
    let page = there.page();
    let clock = Clock::Served(&page, &OPTIONS);
    let mut destination = Machine::incoming_on(lab, kernel, "served-there", &clock, &uri)?;
    let outcome = (|| {
        destination.wait_for("incoming")?;
        until("the destination listens", PATIENCE, || Ok(socket.exists()))?;
        life::save(&mut source, &uri)?;
        let stopped = observation.guest_counter();
        destination.wait_for("calibrated")?;
        let seen = observation.end(&mut destination, stopped)?;
        ensure!(seen.generation()? == generation, "the generation is another one");
        let figures = seen.judge(lab, &["disrupted"])?;
        let listed = there.guests(lab)?;
        let is_there = listed.len() == 1 && listed[0]["guest"] == "served-there" && listed[0]["step"] == "migrated-in";
        ensure!(is_there, "the second service lists {listed:?}");
        Ok(figures)
    })();
    let figures = outcome.map_err(|error| destination.explain(error))?;
    source.quit()?;
    destination.quit()?;
    Ok(figures)
}

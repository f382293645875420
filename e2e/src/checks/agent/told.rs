// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent tells the host.

use std::io::{BufRead, BufReader};

use anyhow::{ensure, Context, Result};
use vmclock_e2e_guest::{TOLD_PORT, VSOCK_MODULES};

use super::{start, CONFIG, OPTIONS};
use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{connect, until, PATIENCE};
use crate::Lab;

/// Over vsock the guest is its own host: by the kernel's loopback. The agent is told of one socket in its configuration,
/// of another by the credential that systemd has for it. Through a virtio serial port it is the host that is told.
pub(crate) fn told(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let driver = kernel.driver.as_deref().context("a kernel without a driver")?;
    let modules = driver.ancestors().nth(3).context("a driver outside of a kernel's modules")?;
    let file = |module: &str| format!("{module}.ko.xz");
    let files = VSOCK_MODULES.map(|module| (file(module), modules.join("net/vmw_vsock").join(file(module))));
    let kernel = Kernel { version: format!("{}-vsock", kernel.version), files: files.to_vec(), ..kernel.clone() };
    let socket = lab.folder.join(format!("told-{}", kernel.version));
    let port = [
        &format!("socket,id=told,path={},server=on,wait=off", socket.display()),
        "-device",
        &format!("virtserialport,chardev=told,name={TOLD_PORT}"),
    ];
    let extra = [&["-chardev"][..], &port].concat();
    let machine = Machine::boot_with(lab, &kernel, "agent-tells", &Clock::Ours(&OPTIONS), &extra)?;
    machine.do_and_quit(|machine| {
        machine.wait_for("calibrated")?;
        let host = connect(&socket, PATIENCE)?;
        host.set_read_timeout(Some(PATIENCE))?;
        let mut host = BufReader::new(host).lines();
        let port = machine.ask("agent listen")?;
        start(machine, &format!("{CONFIG}[tell]\nto = [\"vsock:1:1234\", {port}]\n"))?;
        for count in [2, 4] {
            let status = machine.ask("agent ready")?;
            let generation = status["generation_hex"].as_str().context("no generation")?;
            let lines = ["READY=1", "STATUS=the machine is ready", &format!("X_VMCLOCK_GENERATION={generation}")];
            let messages = machine.ask(&format!("agent told {count}"))?;
            for port in ["1234", "1235"] {
                let wanted = format!("{port}: {}\n", lines.join("\n"));
                let messages = messages.as_array().context("no messages")?;
                ensure!(messages.iter().filter(|text| **text == wanted).count() == 1, "no {wanted:?}: {messages:?}");
            }
            for line in lines {
                let told = host.next().context("the port is closed")?.context("the host was not told")?;
                ensure!(told == line, "the host was told {told:?}, not {line:?}");
            }
            if count == 2 {
                machine.signal(lab, "clone")?;
                let generation = format!("{:#018x}", machine.region()?.page()?.vm_generation_counter);
                until("the agent has dealt with the clone", PATIENCE, || {
                    Ok(machine.ask("agent ready")?["generation_hex"] == generation)
                })?;
            }
        }
        Ok("at start and after a restore READY=1 and the generation came over vsock, as a message and as a stream, and \
            through a virtio serial port to the host"
            .into())
    })
}

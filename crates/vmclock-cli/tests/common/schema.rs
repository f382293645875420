// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command prints as JSON, held to `docs/output.schema.json`: there is no key that it does not name.

use std::cell::RefCell;

use boon::{Compiler, Schemas};
use serde_json::{json, Value};

const SCHEMA: &str = include_str!("../../../../docs/output.schema.json");
const NAME: &str = "file:///output.schema.json";

/// Panics where a line of a subcommand's with these arguments is not as the schema says.
pub fn check(arguments: &[String], line: &Value) {
    let has = |argument: &str| arguments.iter().any(|other| other == argument);
    let name = match arguments.first().map(String::as_str) {
        Some("serve") if has("--check-config") => "check-config",
        Some("simulate") if has("--replay") => "replay",
        Some("bench") if has("--service") => "service-bench",
        Some("bench") if has("--accuracy") => "accuracy",
        Some("guests") if ["add", "remove", "step", "counter"].into_iter().any(has) => "guest-changed",
        Some("signal") if has("--guest") => "guest-changed",
        // A shell's, that runs a publisher.
        Some("-c") => "serve",
        Some(subcommand) => subcommand,
        None => panic!("no subcommand printed {line}"),
    };
    check_as(name, line);
}

/// The same for one of the schemas by its name.
pub fn check_as(name: &str, line: &Value) {
    thread_local!(static COMPILED: RefCell<(Compiler, Schemas)> = RefCell::new((compiler(), Schemas::new())));
    COMPILED.with_borrow_mut(|(compiler, schemas)| {
        let schema = compiler.compile(&format!("{NAME}#/$defs/{name}"), schemas);
        let schema = schema.unwrap_or_else(|error| panic!("docs/output.schema.json has no {name}: {error:#}"));
        if let Err(error) = schemas.validate(line, schema) {
            panic!("not as docs/output.schema.json says of {name}: {error:#}\n{line}");
        }
    });
}

fn compiler() -> Compiler {
    let mut schema = serde_json::from_str(SCHEMA).expect("docs/output.schema.json is JSON");
    close(&mut schema);
    let mut compiler = Compiler::new();
    compiler.set_default_draft(boon::Draft::V2020_12);
    compiler.add_resource(NAME, schema).expect("a schema");
    compiler
}

/// Lets no object have a key that its schema does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("type").is_some_and(|kind| *kind == json!("object")) && map.contains_key("properties") {
                map.insert("unevaluatedProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

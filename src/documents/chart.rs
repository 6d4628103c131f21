//! `deploy/chart/values.yaml` is what the table of values in the chart's README and the descriptions and defaults in
//! `values.schema.json` are written from.
//!
//! A value is documented by a comment above it that begins with `# -- `. What stands in the schema besides (types, patterns,
//! what is required) is written by hand.

use std::{fs, iter};

use serde_json::{Map, Value, json};

use super::{code, config, hold, root, table, updating};

const VALUES: &str = "deploy/chart/values.yaml";
const SCHEMA: &str = "deploy/chart/values.schema.json";

/// A documented value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Documented {
    path: Vec<String>,
    default: Value,
    words: String,
}

/// Every value that has a comment, in the order of the file. `Err` names one without.
fn documented(text: &str) -> Result<Vec<Documented>, String> {
    let values: Value = serde_saphyr::from_str(text).map_err(|error| format!("{VALUES}: {error}"))?;
    let mut found = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut words: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(text) = trimmed.strip_prefix("# -- ") {
            words = Some(text.to_owned());
            continue;
        }
        let Some((key, _)) = trimmed.split_once(':').filter(|(key, _)| !key.starts_with(['#', '-'])) else {
            continue;
        };
        above.retain(|(at, _)| *at < indent);
        above.push((indent, key.to_owned()));
        let path: Vec<String> = above.iter().map(|(_, key)| key.clone()).collect();
        let default = path.iter().try_fold(&values, |value, key| value.get(key)).cloned();
        let default = default.ok_or_else(|| format!("{VALUES} has no {}", path.join(".")))?;
        match words.take() {
            Some(words) => found.push(Documented { path, default, words }),
            None if default.as_object().is_some_and(|map| !map.is_empty()) => {}
            None => return Err(format!("{VALUES}: {} has no comment", path.join("."))),
        }
    }
    Ok(found)
}

fn values() -> Vec<Documented> {
    documented(&fs::read_to_string(root().join(VALUES)).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_value_of_the_chart_stands_in_its_readme() {
    let rows = values().into_iter().map(|value| {
        let default = match &value.default {
            Value::Null => String::new(),
            default => code(&default.to_string()),
        };
        [code(&value.path.join(".")), default, value.words]
    });
    hold("deploy/chart/README.md", "values", &table(["value", "default", "effect"], rows));
}

/// The schema of one value.
fn at<'a>(schema: &'a mut Value, path: &[String]) -> Option<&'a mut Map<String, Value>> {
    path.iter()
        .try_fold(schema, |schema, key| schema.get_mut("properties")?.get_mut(key))
        .and_then(Value::as_object_mut)
}

/// Every property of a schema that has no properties itself, by path.
fn leaves(schema: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.push(path.join("."));
        return;
    };
    for (key, schema) in properties {
        path.push(key.clone());
        leaves(schema, path, found);
        path.pop();
    }
}

#[test]
fn the_schema_of_the_chart_says_of_each_value_what_the_values_file_says() {
    let text = fs::read_to_string(root().join(SCHEMA)).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    let values = values();
    for value in &values {
        let path = value.path.join(".");
        let described = at(&mut schema, &value.path).unwrap_or_else(|| panic!("{SCHEMA} has no {path}"));
        described.insert("description".into(), json!(value.words));
        if !value.default.is_null() {
            described.insert("default".into(), value.default.clone());
        }
    }
    let written = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if written != text {
        assert!(updating(), "{SCHEMA} differs from {VALUES}; to update it: {}", super::UPDATE);
        fs::write(root().join(SCHEMA), written).unwrap();
    }
    assert_eq!(undescribed(&schema), Vec::<String>::new());
    // And it knows no value that the file does not document.
    let mut known = Vec::new();
    leaves(&schema, &mut Vec::new(), &mut known);
    for path in known {
        let documented = values.iter().any(|value| {
            let value = value.path.join(".");
            path == value || path.starts_with(&format!("{value}."))
        });
        assert!(documented, "{SCHEMA} knows {path}, and {VALUES} does not");
    }
}

/// Everything in the schema that has no description.
fn undescribed(schema: &Value) -> Vec<String> {
    fn missing(schema: &Value, path: &str, found: &mut Vec<String>) {
        let named = schema["properties"].as_object().into_iter().flatten();
        let named = named.map(|(key, schema)| (format!("{path}.{key}"), schema));
        let items =
            iter::once((format!("{path}[]"), &schema["items"])).filter(|(_, items)| items.is_object());
        for (path, schema) in named.chain(items) {
            let leaf = schema["properties"].is_null();
            if leaf && schema["description"].is_null() && !path.ends_with("[]") {
                found.push(path.clone());
            }
            missing(schema, &path, found);
        }
    }
    let mut found = Vec::new();
    missing(schema, "", &mut found);
    // Those of `config` are the settings of the program, which docs/operations.md describes; the other one is Kubernetes' own.
    found.retain(|path| !path.starts_with(".config.") && path != ".imagePullSecrets[].name");
    found
}

#[test]
fn the_chart_takes_every_setting_of_the_configuration_file_that_it_does_not_make_itself() {
    let made = [
        "exports",
        "clusters",
        "provisionerNames",
        "leaderElection",
        // The pod is told its own namespace, which wins over the file, and has rights to Leases only there.
        "leaseNamespace",
        "listen",
        "listenFile",
        "kubeconfig",
    ];
    let schema: Value = serde_json::from_str(&fs::read_to_string(root().join(SCHEMA)).unwrap()).unwrap();
    let known = schema["properties"]["config"]["properties"].as_object().unwrap();
    let settings = config::tests::settings().into_iter().map(|[_, _, key, _, _]| key);
    let settings: Vec<String> = settings
        .filter(|key| !key.is_empty() && !key.contains('[') && !made.contains(&key.as_str()))
        .collect();
    assert!(settings.len() > 20, "{settings:?}");
    for key in &settings {
        assert!(known.contains_key(key), "values.schema.json lacks config.{key}");
    }
    for key in known.keys() {
        assert!(settings.contains(key), "config.{key} is no setting of the program");
    }
}

#[test]
fn every_value_of_the_old_chart_is_in_the_table_of_its_tests() {
    let table = fs::read_to_string(root().join("deploy/chart/tests/old-values.yaml")).unwrap();
    let rows: Value = serde_saphyr::from_str(&table).unwrap();
    let tried: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["value"].as_str().unwrap()).collect();
    let text = fs::read_to_string(root().join(VALUES)).unwrap();
    let (old, _) = text.split_once("what berth adds").unwrap();
    let ours =
        ["image.digest", "nfs.aliases", "nfs.formerPaths", "nfs.operationTimeout", "storageClass.parameters"];
    for value in documented(old).unwrap() {
        let path = value.path.join(".");
        let known = tried.contains(&path.as_str()) || ours.contains(&path.as_str());
        assert!(known, "{path} has no row in deploy/chart/tests/old-values.yaml");
    }
    assert_eq!(tried.len(), 43, "{tried:?}");
}

#[test]
fn a_value_without_a_comment_is_found() {
    let text = "a:\n  # -- What b does.\n  b: 1\n# -- A map.\nc: {}\n";
    let found = documented(text).unwrap();
    assert_eq!(
        found[0],
        Documented { path: vec!["a".into(), "b".into()], default: json!(1), words: "What b does.".into() }
    );
    assert_eq!(found[1].path, ["c"]);
    assert!(documented("a:\n  b: 1\n").unwrap_err().contains("a.b has no comment"));
}

//! Holds JSON to a schema of the OpenAPI document. It knows the words that the document uses and
//! panics on any other, so that nothing is passed over in silence; fields that a schema does not name
//! are errors too.

use serde_json::{Map, Value};

/// Words that say nothing about what is valid.
const NOTES: [&str; 4] = ["description", "default", "format", "title"];

pub(crate) struct Schemas<'a>(pub(crate) &'a Value);

impl Schemas<'_> {
    /// Panics unless `value` is valid and fully described.
    pub(crate) fn hold(&self, schema: &Value, value: &Value, what: &str) {
        if let Err(e) = self.check(schema, value, what) {
            panic!("{e}\n{value:#}");
        }
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let (schema, properties) = self.flat(schema);
        for (word, rule) in &schema {
            let fine = match word.as_str() {
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|t| is(t, value)),
                    one => is(one, value),
                },
                "enum" => rule.as_array().unwrap().contains(value),
                "oneOf" => {
                    let fits = |s: &&Value| self.check(s, value, at).is_ok();
                    rule.as_array().unwrap().iter().filter(fits).count() == 1
                }
                "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
                "minLength" => {
                    value.as_str().is_none_or(|v| v.len() as u64 >= rule.as_u64().unwrap())
                }
                "maxLength" => {
                    value.as_str().is_none_or(|v| v.len() as u64 <= rule.as_u64().unwrap())
                }
                "required" => value.as_object().is_none_or(|fields| {
                    rule.as_array()
                        .unwrap()
                        .iter()
                        .all(|r| fields.contains_key(r.as_str().unwrap()))
                }),
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{i}]"))?;
                    }
                    true
                }
                "properties" | "additionalProperties" | "propertyNames" => true,
                word if NOTES.contains(&word) => true,
                word => panic!("the test does not know the word {word}"),
            };
            if !fine {
                return Err(format!("{at}: {value} breaks {word}: {rule}"));
            }
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            match (properties.get(name), schema.get("additionalProperties")) {
                (Some(rule), _) => self.check(rule, field, &at)?,
                (None, Some(rule @ Value::Object(_))) => self.check(rule, field, &at)?,
                (None, _) if schema.contains_key("oneOf") => {}
                _ if schema.len() == 1 => {} // {"type": "object"}: anything
                _ => return Err(format!("{at} is not described")),
            }
        }
        Ok(())
    }

    /// A schema without references and `allOf`, and all its properties.
    fn flat(&self, schema: &Value) -> (Map<String, Value>, Map<String, Value>) {
        let mut words = schema.as_object().unwrap().clone();
        let mut properties = Map::new();
        if let Some(Value::String(to)) = words.remove("$ref") {
            let name = to.strip_prefix("#/components/schemas/").unwrap();
            let target = self.0.get(name).unwrap_or_else(|| panic!("no schema {name}"));
            let (further, fields) = self.flat(target);
            join(&mut words, further);
            properties.extend(fields);
        }
        if let Some(Value::Array(parts)) = words.remove("allOf") {
            for part in &parts {
                let (further, fields) = self.flat(part);
                join(&mut words, further);
                properties.extend(fields);
            }
        }
        if let Some(Value::Object(fields)) = words.get("properties") {
            properties.extend(fields.clone());
        }
        (words, properties)
    }
}

/// Adds a part's words; lists of required fields add up.
fn join(words: &mut Map<String, Value>, further: Map<String, Value>) {
    for (word, rule) in further {
        match (words.get_mut(&word), rule) {
            (Some(Value::Array(there)), Value::Array(more)) if word == "required" => {
                there.extend(more);
            }
            (_, rule) => {
                words.insert(word, rule);
            }
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

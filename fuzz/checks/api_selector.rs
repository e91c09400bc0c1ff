//! Any selector of labels or fields: read or refused; what is read tells objects apart the same way each time.

use hypha_apiserver::{
    kinds,
    selector::{FieldSelector, LabelSelector, selector_text},
};
use serde_json::{Value, json};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let objects = [
        json!({}),
        json!({"metadata": {"name": "a", "namespace": "n", "labels": {"a": "b", "e": "", "x/y": "7"}}}),
        json!({"metadata": {"name": "b", "labels": {"a": 1}}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
    ];
    if let Ok(selector) = LabelSelector::parse(&text) {
        let again = LabelSelector::parse(&text).expect("it was read before");
        assert_eq!(selector, again);
        let seen: Vec<bool> = objects.iter().map(|o| selector.matches(o)).collect();
        assert_eq!(seen, objects.each_ref().map(|o| again.matches(o)));
    }
    let pod = kinds::pod();
    if let Ok(selector) = FieldSelector::parse(&pod, &text) {
        objects.iter().for_each(|object| {
            selector.matches(&pod, object);
        });
        if let Some(name) = selector.name() {
            assert!(!selector.matches(&pod, &json!({"metadata": {"name": format!("{name}x")}})));
        }
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        let _ = selector_text(&value);
        if let Some(selector) = LabelSelector::from_object(&value) {
            objects.iter().for_each(|object| {
                selector.matches(object);
            });
        }
    }
}

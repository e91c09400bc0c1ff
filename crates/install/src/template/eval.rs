//! Executing a tree.
use serde_json::Value;

use super::functions::{self, kind, truth};
use super::parse::{Expr, Node, Pipeline, Range};
use super::{TemplateError, Templates};

/// How deep templates may include each other.
const DEPTH: u32 = 64;

/// Executes a body and gives what it prints.
pub(super) fn run(
    templates: &Templates,
    file: &str,
    body: &[Node],
    dot: &Value,
    depth: u32,
) -> Result<String, TemplateError> {
    let mut state = State {
        templates,
        file,
        depth,
        // `$` is what the template was executed with.
        variables: vec![(String::new(), dot.clone())],
        out: String::new(),
    };
    state.nodes(body, dot)?;
    Ok(state.out)
}

struct State<'a> {
    templates: &'a Templates,
    file: &'a str,
    depth: u32,
    /// The innermost last.
    variables: Vec<(String, Value)>,
    out: String,
}

impl State<'_> {
    fn fail<T>(&self, line: u32, text: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.file, line, text))
    }

    /// A block: what it declares ends with it.
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let known = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.target.is_none() {
                    let text = functions::printed(&value);
                    let text = text.or_else(|text| self.fail(pipeline.line, text))?;
                    self.out.push_str(&text);
                }
            }
            Node::If(branches, otherwise) => return self.conditional(branches, otherwise, dot),
            Node::With(pipeline, body, otherwise) => {
                let known = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                if truth(&value) {
                    self.nodes(body, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
                self.variables.truncate(known);
            }
            Node::Range(range) => return self.range(range, dot),
            Node::Template(name, pipeline) => {
                let (value, line) = match pipeline {
                    Some(pipeline) => (self.pipeline(pipeline, dot)?, pipeline.line),
                    None => (Value::Null, 0),
                };
                let text = self.include(name, &value, line)?;
                self.out.push_str(&text);
            }
        }
        Ok(())
    }

    fn conditional(
        &mut self,
        branches: &[(Pipeline, Vec<Node>)],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), TemplateError> {
        let known = self.variables.len();
        for (condition, body) in branches {
            if truth(&self.pipeline(condition, dot)?) {
                self.nodes(body, dot)?;
                self.variables.truncate(known);
                return Ok(());
            }
        }
        self.nodes(otherwise, dot)?;
        self.variables.truncate(known);
        Ok(())
    }

    fn range(&mut self, range: &Range, dot: &Value) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.pipeline(&range.over, dot)? {
            Value::Array(items) => (0i64..).map(Value::from).zip(items).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            Value::Null => Vec::new(),
            other => {
                return self.fail(range.over.line, format!("range over {}", kind(&other)));
            }
        };
        if items.is_empty() {
            return self.nodes(&range.otherwise, dot);
        }
        for (key, value) in items {
            let known = self.variables.len();
            if let Some(name) = &range.key {
                self.variables.push((name.clone(), key));
            }
            if let Some(name) = &range.value {
                self.variables.push((name.clone(), value.clone()));
            }
            self.nodes(&range.body, &value)?;
            self.variables.truncate(known);
        }
        Ok(())
    }

    /// The value of a pipeline; a variable gets it if there is one to get it.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot, pipeline.line)?);
        }
        let value = value.unwrap_or(Value::Null);
        match &pipeline.target {
            None => {}
            Some((name, true)) => self.variables.push((name.clone(), value.clone())),
            Some((name, false)) => {
                let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
                match found {
                    Some((_, slot)) => *slot = value.clone(),
                    None => return self.fail(pipeline.line, format!("${name} is not declared")),
                }
            }
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &[Expr],
        piped: Option<Value>,
        dot: &Value,
        line: u32,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.split_first() else {
            return self.fail(line, "a value is missing");
        };
        let Expr::Function(name) = first else {
            if rest.is_empty() && piped.is_none() {
                return self.expr(first, dot, line);
            }
            return self.fail(line, "only a function takes arguments");
        };
        // These two look no further than they must.
        if matches!(name.as_str(), "and" | "or") {
            return self.logic(name == "or", rest, piped, dot, line);
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for expr in rest {
            arguments.push(self.expr(expr, dot, line)?);
        }
        arguments.extend(piped);
        if name == "include" {
            return match arguments.as_slice() {
                [Value::String(name), value] => self.include(name, value, line).map(Value::from),
                _ => self.fail(line, "include takes a name and a value"),
            };
        }
        if name == "lookup" {
            return Ok(self.lookup(&arguments));
        }
        functions::call(name, &arguments).or_else(|text| self.fail(line, format!("{name}: {text}")))
    }

    /// An object of the cluster by version, kind, namespace and name; an empty map if it is not there.
    fn lookup(&self, arguments: &[Value]) -> Value {
        let [version, kind, namespace, name] = arguments else {
            return Value::Null;
        };
        let wanted = |object: &&Value| {
            object["apiVersion"] == *version
                && object["kind"] == *kind
                && object["metadata"]["namespace"] == *namespace
                && object["metadata"]["name"] == *name
        };
        let found = self.templates.there.iter().find(wanted);
        found.cloned().unwrap_or_else(|| serde_json::json!({}))
    }

    fn logic(
        &mut self,
        decided_by: bool,
        arguments: &[Expr],
        piped: Option<Value>,
        dot: &Value,
        line: u32,
    ) -> Result<Value, TemplateError> {
        let mut last = Value::Null;
        for expr in arguments {
            last = self.expr(expr, dot, line)?;
            if truth(&last) == decided_by {
                return Ok(last);
            }
        }
        Ok(piped.unwrap_or(last))
    }

    fn include(&mut self, name: &str, dot: &Value, line: u32) -> Result<String, TemplateError> {
        if self.depth >= DEPTH {
            return self.fail(line, "templates include each other without end");
        }
        if let Some((file, body)) = self.templates.named.get(name) {
            return run(self.templates, file, body, dot, self.depth + 1);
        }
        match self.templates.files.get(name) {
            Some(body) => run(self.templates, name, body, dot, self.depth + 1),
            None => self.fail(line, format!("there is no template {name:?}")),
        }
    }

    fn expr(&mut self, expr: &Expr, dot: &Value, line: u32) -> Result<Value, TemplateError> {
        match expr {
            Expr::Value(value) => Ok(value.clone()),
            Expr::Dot(fields) => self.fields(dot, fields, line),
            Expr::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                match found {
                    Some((_, value)) => self.fields(value, fields, line),
                    None => self.fail(line, format!("${name} is not declared")),
                }
            }
            Expr::Sub(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?;
                self.fields(&value, fields, line)
            }
            Expr::Function(_) => self.command(std::slice::from_ref(expr), None, dot, line),
        }
    }

    /// A field that a map lacks is nothing; a field of nothing is a mistake.
    fn fields(&self, from: &Value, fields: &[String], line: u32) -> Result<Value, TemplateError> {
        let mut here = from;
        for (done, field) in fields.iter().enumerate() {
            match here {
                Value::Object(map) => here = map.get(field).unwrap_or(&Value::Null),
                other => {
                    let path = fields[..done].join(".");
                    let text = format!(".{path} is {}, and has no field {field}", kind(other));
                    return self.fail(line, text);
                }
            }
        }
        Ok(here.clone())
    }
}

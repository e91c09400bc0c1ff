//! Expressions over a flow, in the Common Expression Language: `_flow.verdict == Verdict.DROPPED && _flow.l4.TCP.destination_port > 1024`.
//!
//! `_flow` is the message with its own field names; a field that is not set has its default, `has()` tells. Names of enums give
//! their numbers. Expressions come from outside: their length and how often lists may be gone through in each other are bounded, names
//! are checked, and each is tried on a flow that says nothing before it is taken.
use api::hubble::{flow::Flow, json};
use cel::{
    Context, Env, ExecutionError,
    common::{
        ast::{EntryExpr, Expr, LiteralValue},
        traits::Indexer,
        types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, Type},
        value::{CowVal, Val},
    },
    parser::Expression as Tree,
};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

/// Characters of an expression.
const LONGEST: usize = 1024;
/// How deep lists may be gone through in each other.
const DEEPEST: usize = 2;
/// The flow.
const FLOW: &str = "_flow";
/// What stands before a field's name where it is only asked whether it is set.
const SET: char = '?';

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
static MESSAGE: Type = Type::new_unspecified_type("flow.Message");

/// An expression that can be asked.
pub(super) struct Expression(Tree);

impl Expression {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!(
                "an expression of {} bytes; at most {LONGEST} are accepted",
                text.len()
            ));
        }
        let wrong = |why: String| format!("{text:?}: {}", why.lines().next().unwrap_or_default());
        let mut tree = ENV
            .parser()
            .parse(text)
            .map_err(|errors| wrong(errors.to_string().replace("ERROR: <input>:", "at ")))?;
        let flow = descriptor().map_err(&wrong)?;
        let mut check = Check {
            flow: flow.clone(),
            bound: Vec::new(),
            depth: 0,
        };
        check.expression(&mut tree).map_err(&wrong)?;
        let expression = Self(tree);
        let tried = expression.evaluate(&DynamicMessage::new(flow));
        match tried {
            Ok(Some(_)) => Ok(expression),
            Ok(None) => Err(wrong("it is neither true nor false".to_owned())),
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_)) => {
                Ok(expression)
            }
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Whether it is true of a flow; what cannot be worked out is not.
    pub fn holds(&self, flow: &DynamicMessage) -> bool {
        matches!(self.evaluate(flow), Ok(Some(true)))
    }

    fn evaluate(&self, flow: &DynamicMessage) -> Result<Option<bool>, ExecutionError> {
        let mut context = Context::with_env(ENV.clone());
        context.add_variable_as_val(FLOW, Box::new(Held::Borrowed(flow)));
        let value = cel::Value::resolve_val(&self.0, &context)?;
        Ok(value.downcast_ref::<CelBool>().map(|value| *value.inner()))
    }
}

fn descriptor() -> Result<MessageDescriptor, String> {
    json::descriptor::<Flow>().map_err(|error| error.to_string())
}

/// A flow as expressions are asked about it; none if it cannot be read, which no flow of ours is.
pub(super) fn message(flow: &Flow) -> Option<DynamicMessage> {
    let bytes = flow.encode_to_vec();
    DynamicMessage::decode(descriptor().ok()?, bytes.as_slice()).ok()
}

/// Names of types, which expressions may compare with.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// Goes through an expression: names have to be known; those of enums become numbers, and questions whether fields are set become
/// fields.
struct Check {
    flow: MessageDescriptor,
    /// Variables of those who go through lists.
    bound: Vec<String>,
    depth: usize,
}

type Known = Option<MessageDescriptor>;

impl Check {
    /// The message that the expression is, where that is known.
    fn expression(&mut self, tree: &mut Tree) -> Result<Known, String> {
        if let Some(number) = self.constant(&tree.expr) {
            tree.expr = Expr::Literal(LiteralValue::Int(CelInt::from(number)));
            return Ok(None);
        }
        match &mut tree.expr {
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                let known = self.expression(&mut select.operand)?;
                let field = known.as_ref().map(|message| field(message, &select.field));
                let field = field.transpose()?;
                if select.test {
                    select.test = false;
                    select.field.insert(0, SET);
                    return Ok(None);
                }
                Ok(field.and_then(|field| of_field(&field)))
            }
            Expr::Call(call) => {
                if let Some(target) = &mut call.target {
                    self.expression(target)?;
                }
                self.all(&mut call.args)
            }
            Expr::List(list) => self.all(&mut list.elements),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.expression(&mut entry.key)?;
                        self.expression(&mut entry.value)?;
                    }
                }
                Ok(None)
            }
            Expr::Comprehension(list) => {
                self.expression(&mut list.iter_range)?;
                if self.depth == DEEPEST {
                    return Err(format!(
                        "lists are gone through more than {DEEPEST} deep in each other"
                    ));
                }
                let before = self.bound.len();
                self.bound
                    .extend([list.iter_var.clone(), list.accu_var.clone()]);
                self.bound.extend(list.iter_var2.clone());
                self.depth += 1;
                for part in [
                    &mut list.accu_init,
                    &mut list.loop_cond,
                    &mut list.loop_step,
                    &mut list.result,
                ] {
                    self.expression(part)?;
                }
                self.depth -= 1;
                self.bound.truncate(before);
                Ok(None)
            }
            Expr::Struct(message) => Err(format!("{} cannot be made here", message.type_name)),
            Expr::Literal(_) | Expr::Unspecified => Ok(None),
        }
    }

    fn all(&mut self, trees: &mut [Tree]) -> Result<Known, String> {
        for tree in trees {
            self.expression(tree)?;
        }
        Ok(None)
    }

    fn name(&self, name: &str) -> Result<Known, String> {
        if name == FLOW {
            return Ok(Some(self.flow.clone()));
        }
        if self.bound.iter().any(|bound| bound == name) || TYPES.contains(&name) {
            return Ok(None);
        }
        Err(format!(
            "{name:?} is not known; accepted are {FLOW} and names of enums as Verdict.DROPPED"
        ))
    }

    /// The number of `Verdict.DROPPED` or `flow.Verdict.DROPPED`.
    fn constant(&self, tree: &Expr) -> Option<i64> {
        let Expr::Select(value) = tree else {
            return None;
        };
        let name = match &value.operand.expr {
            Expr::Ident(name) if !self.bound.contains(name) => name,
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(package) if package == "flow" => &select.field,
                _ => return None,
            },
            _ => return None,
        };
        let pool = self.flow.parent_pool();
        let known = pool.get_enum_by_name(&format!("flow.{name}"))?;
        let value = known.get_value_by_name(&value.field)?;
        Some(value.number().into())
    }
}

fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    let known = message.get_field_by_name(name);
    known.ok_or_else(|| format!("a {} has no field {name:?}", message.name()))
}

/// The message that a field is; none for lists and what is no message.
fn of_field(field: &FieldDescriptor) -> Known {
    match field.kind() {
        Kind::Message(message) if !field.is_list() && !is_wrapper(&message) => Some(message),
        _ => None,
    }
}

/// Messages that stand for a value that may be missing.
fn is_wrapper(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.") && message.name().ends_with("Value")
}

/// A message as expressions see it.
#[derive(Clone, Debug)]
enum Held<'m> {
    Borrowed(&'m DynamicMessage),
    /// One that is not set.
    Owned(Arc<DynamicMessage>),
}

impl<'m> Held<'m> {
    fn message(&self) -> &DynamicMessage {
        match self {
            Self::Borrowed(message) => message,
            Self::Owned(message) => message,
        }
    }

    fn value(&self, field: &FieldDescriptor) -> Cow<'m, Value> {
        match self {
            Self::Borrowed(message) => message.get_field(field),
            Self::Owned(message) => Cow::Owned(message.get_field(field).into_owned()),
        }
    }
}

impl Val for Held<'_> {
    fn get_type(&self) -> &Type {
        &MESSAGE
    }

    fn cel_type() -> &'static Type {
        &MESSAGE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Indexer for Held<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = index.downcast_ref::<CelString<'_>>().map(CelString::inner);
        let name = name.unwrap_or_default();
        let message = self.message();
        let known = |name: &str| {
            let field = message.descriptor().get_field_by_name(name);
            field.ok_or_else(|| ExecutionError::no_such_key(name))
        };
        if let Some(name) = name.strip_prefix(SET) {
            return Ok(CowVal::owned(CelBool::from(
                message.has_field(&known(name)?),
            )));
        }
        let field = known(name)?;
        let wraps = matches!(field.kind(), Kind::Message(message) if is_wrapper(&message));
        if wraps && !message.has_field(&field) {
            return Ok(CowVal::owned(CelNull));
        }
        Ok(CowVal::Owned(value(self.value(&field))))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

/// A value of a field as expressions see it.
fn value(value: Cow<'_, Value>) -> Box<dyn Val + '_> {
    match value {
        Cow::Borrowed(Value::Message(message)) if !is_wrapper(&message.descriptor()) => {
            Box::new(Held::Borrowed(message))
        }
        Cow::Borrowed(Value::String(text)) => Box::new(CelString::from(text.as_str())),
        Cow::Borrowed(Value::List(list)) => {
            let all = list.iter().map(|one| self::value(Cow::Borrowed(one)));
            Box::new(CelList::from(all.collect::<Vec<_>>()))
        }
        other => match other.into_owned() {
            Value::Message(message) if is_wrapper(&message.descriptor()) => {
                let inner = message.get_field_by_number(1).map(Cow::into_owned);
                inner.map_or_else(
                    || Box::new(CelNull) as _,
                    |inner| self::value(Cow::Owned(inner)),
                )
            }
            Value::Message(message) => Box::new(Held::Owned(Arc::new(message))),
            Value::String(text) => Box::new(CelString::from(text)),
            Value::List(list) => {
                let all = list.into_iter().map(|one| self::value(Cow::Owned(one)));
                Box::new(CelList::from(all.collect::<Vec<_>>()))
            }
            Value::Bool(value) => Box::new(CelBool::from(value)),
            Value::I32(value) | Value::EnumNumber(value) => {
                Box::new(CelInt::from(i64::from(value)))
            }
            Value::I64(value) => Box::new(CelInt::from(value)),
            Value::U32(value) => Box::new(CelUInt::from(u64::from(value))),
            Value::U64(value) => Box::new(CelUInt::from(value)),
            Value::F32(value) => Box::new(CelDouble::from(f64::from(value))),
            Value::F64(value) => Box::new(CelDouble::from(value)),
            Value::Bytes(bytes) => Box::new(CelBytes::from(bytes.to_vec())),
            // No message of ours has one.
            Value::Map(_) => Box::new(CelNull),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::hubble::flow::{Endpoint, FlowType, Layer4, Tcp, Verdict, Workload, layer4::Protocol};
    use proptest::prelude::*;

    fn flow() -> Flow {
        Flow {
            verdict: Verdict::Dropped as i32,
            r#type: FlowType::L3L4 as i32,
            l4: Some(Layer4 {
                protocol: Some(Protocol::Tcp(Tcp {
                    source_port: 40112,
                    destination_port: 80,
                    ..Tcp::default()
                })),
            }),
            source: Some(Endpoint {
                identity: 20311,
                namespace: "shop".into(),
                labels: vec!["k8s:app=cart".into(), "k8s:zone=a".into()],
                workloads: vec![Workload {
                    name: "cart".into(),
                    kind: "Deployment".into(),
                }],
                ..Endpoint::default()
            }),
            is_reply: Some(false),
            socket_cookie: 7,
            ..Flow::default()
        }
    }

    fn holds(text: &str) -> Result<bool, String> {
        Ok(Expression::parse(text)?.holds(&message(&flow()).unwrap()))
    }

    #[test]
    fn flows_are_asked() {
        for (text, wanted) in [
            ("true", true),
            ("_flow.verdict == Verdict.DROPPED", true),
            (
                "_flow.verdict == flow.Verdict.FORWARDED || _flow.verdict in [Verdict.AUDIT]",
                false,
            ),
            (
                "_flow.l4.TCP.destination_port == 80u && _flow.l4.TCP.source_port > 1024u",
                true,
            ),
            ("_flow.l4.TCP.destination_port == 80", true),
            ("has(_flow.l4.TCP) && !has(_flow.l4.UDP)", true),
            ("has(_flow.destination)", false),
            ("has(_flow.destination.pod_name)", false),
            (
                "_flow.destination.identity == 0u && _flow.destination.pod_name == ''",
                true,
            ),
            ("_flow.source.namespace.startsWith('sh')", true),
            ("_flow.source.labels.exists(l, l == 'k8s:app=cart')", true),
            ("_flow.source.labels.all(l, l.matches('^k8s:.*='))", true),
            (
                "_flow.source.workloads.exists(w, w.kind == 'Deployment' && has(w.name))",
                true,
            ),
            ("'k8s:zone=b' in _flow.source.labels", false),
            ("size(_flow.source.labels) == 2", true),
            ("_flow.is_reply == false", true),
            ("_flow.source.labels[7] == 'x'", false),
            ("_flow.socket_cookie == 7u ? true : false", true),
            ("_flow.Type == FlowType.L3_L4", true),
        ] {
            assert_eq!(holds(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_before_flows_are_asked() {
        let deep = "[1].all(a, [1].all(b, [1].all(c, a + b + c == 3)))";
        let long = format!("{} == 1", "1 + ".repeat(400) + "1");
        for (text, says) in [
            ("", "\"\""),
            ("_flow.", "at 1:"),
            ("_flow.verdict", "neither true nor false"),
            ("1 + 1", "neither true nor false"),
            ("_flow.source.pod == 'x'", "has no field \"pod\""),
            ("has(_flow.l5)", "has no field \"l5\""),
            ("flow.verdict == 2", "\"flow\" is not known"),
            ("Verdict.LOST == 2", "\"Verdict\" is not known"),
            ("shout(_flow.node_name) == 'X'", "shout"),
            ("_flow.node_name > 3", "\"_flow.node_name > 3\""),
            ("Flow{verdict: 2} == _flow", "Flow"),
            (deep, "more than 2 deep"),
            (&long, "at most 1024"),
        ] {
            let error = Expression::parse(text).err().unwrap_or_default();
            assert!(
                error.contains(says) && error.lines().count() == 1,
                "{text}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,40}") {
            let _ = Expression::parse(&text);
        }

        #[test]
        fn any_mix_of_words_is_taken_or_refused(words in proptest::collection::vec(
            prop_oneof!["_flow", "\\.", "verdict", "l4", "TCP", "\\(", "\\)", "has", "==", "&&", "!", "\\[", "\\]", "1", "'", "\\{", "\\}", ":", "\\?", "-", "all", ",", "x"], 0..12)) {
            let text = words.concat();
            if let Ok(expression) = Expression::parse(&text) {
                expression.holds(&message(&flow()).unwrap());
            }
        }
    }
}

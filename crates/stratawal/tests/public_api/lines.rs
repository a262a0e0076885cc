//! The lines of the API. Each is a signature, without body and docs.

use std::collections::BTreeSet;

use quote::{ToTokens, quote};
use syn::{Attribute, Fields, ImplItem, Item, ItemImpl, Visibility};

use crate::items::{Crate, Crates, Target, is_conditional, resolve, uses};

/// The public items in the module `module` of the crate `name` and in its public submodules.
pub(crate) fn of_module(crates: &Crates, name: &str, module: &[String]) -> BTreeSet<String> {
    let krate = &crates[name];
    let path = [&[name.to_owned()], module].concat().join("::");
    let mut lines = BTreeSet::new();
    for item in &krate.modules[module] {
        match item {
            Item::Mod(item) if is_public(&item.vis) && !is_conditional(&item.attrs) => {
                let inner = [module, &[item.ident.to_string()]].concat();
                lines.insert(format!("pub mod {path}::{}", item.ident));
                lines.extend(of_module(crates, name, &inner));
            }
            Item::Use(item) if is_public(&item.vis) && !is_conditional(&item.attrs) => {
                for (target, shown) in uses(&item.tree) {
                    match resolve(crates, name, module, &target) {
                        Target::Item(krate, item) => lines.extend(of_item(krate, item, &format!("{path}::{shown}"))),
                        Target::Foreign(target) => drop(lines.insert(format!("pub use {target} as {path}::{shown}"))),
                    }
                }
            }
            item => {
                let Some(own) = crate::items::name_of(item) else { continue };
                lines.extend(of_item(krate, item, &format!("{path}::{own}")));
            }
        }
    }
    lines
}

/// The lines of the item at `path` in the API. Empty for a private item.
fn of_item(krate: &Crate, item: &Item, path: &str) -> Vec<String> {
    let (vis, attributes) = match item {
        Item::Struct(item) => (&item.vis, &item.attrs),
        Item::Enum(item) => (&item.vis, &item.attrs),
        Item::Fn(item) => (&item.vis, &item.attrs),
        Item::Const(item) => (&item.vis, &item.attrs),
        Item::Type(item) => (&item.vis, &item.attrs),
        Item::Trait(item) => panic!("{path} is a trait: show its methods here, {}", item.ident),
        _ => return Vec::new(),
    };
    if !is_public(vis) || is_conditional(attributes) {
        return Vec::new();
    }
    let marks = marks(attributes);
    match item {
        Item::Struct(item) => {
            let mut lines = vec![format!("pub struct {path}{}{marks}", text(&item.generics))];
            let fields = item.fields.iter().filter(|field| is_public(&field.vis));
            lines.extend(fields.map(|field| match &field.ident {
                Some(name) => format!("pub {path}.{name}: {}", text(&field.ty)),
                None => format!("pub {path}.{}", text(&field.ty)),
            }));
            lines.extend(of_type(krate, &item.ident.to_string(), attributes, path));
            lines
        }
        Item::Enum(item) => {
            let mut lines = vec![format!("pub enum {path}{}{marks}", text(&item.generics))];
            lines.extend(item.variants.iter().map(|variant| {
                let fields = match &variant.fields {
                    Fields::Unit => String::new(),
                    Fields::Named(fields) => format!(" {{ {} }}", fields_text(&fields.named)),
                    Fields::Unnamed(fields) => text(fields),
                };
                format!("pub {path}::{}{fields}", variant.ident)
            }));
            lines.extend(of_type(krate, &item.ident.to_string(), attributes, path));
            lines
        }
        Item::Fn(item) => vec![of_fn(&item.sig, &marks, path)],
        Item::Const(item) => vec![format!("pub const {path}: {}", text(&item.ty))],
        Item::Type(item) => vec![format!("pub type {path}{} = {}", text(&item.generics), text(&item.ty))],
        _ => Vec::new(),
    }
}

/// The parts of a type other than its fields: derived traits, methods, and implemented traits.
fn of_type(krate: &Crate, name: &str, attributes: &[Attribute], path: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for derive in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let parsed = derive.parse_nested_meta(|meta| {
            lines.push(format!("impl {} for {path}", text(&meta.path)));
            Ok(())
        });
        parsed.unwrap();
    }
    for item in krate.impls_of(name) {
        match &item.trait_ {
            Some((_, of, _)) => lines.extend(of_trait_impl(item, of, path)),
            None => lines.extend(item.items.iter().filter_map(|item| of_impl_item(item, path))),
        }
    }
    lines
}

fn of_trait_impl(item: &ItemImpl, of: &syn::Path, path: &str) -> Option<String> {
    // A destructor can be neither called nor named.
    if of.is_ident("Drop") {
        return None;
    }
    let types = item.items.iter().filter_map(|item| match item {
        ImplItem::Type(item) => Some(format!("type {} = {}", item.ident, text(&item.ty))),
        _ => None,
    });
    let types: Vec<String> = types.collect();
    let types = if types.is_empty() { String::new() } else { format!(" {{ {} }}", types.join("; ")) };
    let generics = text(&item.generics);
    // `From<Error> for io::Error` is an impl for another crate's type.
    let own = text(&item.self_ty);
    let own = if own.contains("::") { &own } else { path };
    Some(format!("impl{generics} {} for {own}{types}", text(of)))
}

fn of_impl_item(item: &ImplItem, path: &str) -> Option<String> {
    match item {
        ImplItem::Fn(item) if is_public(&item.vis) && !is_conditional(&item.attrs) => {
            Some(of_fn(&item.sig, &marks(&item.attrs), &format!("{path}::{}", item.sig.ident)))
        }
        ImplItem::Const(item) if is_public(&item.vis) && !is_conditional(&item.attrs) => {
            Some(format!("pub const {path}::{}: {}", item.ident, text(&item.ty)))
        }
        _ => None,
    }
}

fn of_fn(signature: &syn::Signature, marks: &str, path: &str) -> String {
    let syn::Signature { constness, asyncness, unsafety, generics, inputs, output, .. } = signature;
    let before = text(&quote!(#constness #asyncness #unsafety));
    let before = if before.is_empty() { before } else { format!("{before} ") };
    let output = text(output);
    let output = if output.is_empty() { output } else { format!(" {output}") };
    let where_clause = generics.where_clause.as_ref().map_or(String::new(), |clause| format!(" {}", text(clause)));
    format!("pub {before}fn {path}{}({}){output}{where_clause}{marks}", text(generics), text(inputs))
}

fn fields_text<P: ToTokens>(fields: &syn::punctuated::Punctuated<syn::Field, P>) -> String {
    let shown = |field: &syn::Field| format!("{}: {}", text(&field.ident), text(&field.ty));
    fields.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The attributes on which callers depend.
fn marks(attributes: &[Attribute]) -> String {
    let shown = |name: &str| {
        let is_there = attributes.iter().any(|attribute| attribute.path().is_ident(name));
        if is_there { format!(" #[{name}]") } else { String::new() }
    };
    shown("must_use") + &shown("non_exhaustive")
}

fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// The tokens, spaced as a person would write them.
fn text(tokens: &impl ToTokens) -> String {
    const SPACES: [(&str, &str); 16] = [
        (" ::", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" :", ":"),
        ("& ", "&"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        ("[ ", "["),
        (" ]", "]"),
        (" ;", ";"),
        ("->(", "-> ("),
        (",>", ">"),
    ];
    let text = tokens.to_token_stream().to_string();
    let text = SPACES.iter().fold(text, |text, (from, to)| text.replace(from, to));
    text.trim().trim_end_matches(',').to_owned()
}

//! The items of crates, read from their sources, and the resolution of paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::{Attribute, Item, ItemImpl, UseTree};

/// The names of the modules from the root of a crate to an item.
pub(crate) type ModulePath = Vec<String>;

/// The parsed sources of a crate.
#[derive(Default)]
pub(crate) struct Crate {
    /// The items of each module.
    pub(crate) modules: BTreeMap<ModulePath, Vec<Item>>,
}

/// Crates, keyed by their names in paths.
pub(crate) type Crates = BTreeMap<&'static str, Crate>;

/// Where a path leads.
pub(crate) enum Target<'a> {
    Item(&'a Crate, &'a Item),
    /// To a crate whose sources are not read. Holds the full path.
    Foreign(String),
}

impl Crate {
    pub(crate) fn read(src: &Path) -> Self {
        let mut modules = Self::default();
        modules.add_file(&src.join("lib.rs"), src, Vec::new());
        modules
    }

    pub(crate) fn of_source(source: &str) -> Self {
        let mut modules = Self::default();
        modules.add(syn::parse_file(source).unwrap().items, Path::new(""), Vec::new());
        modules
    }

    fn add_file(&mut self, file: &Path, dir: &Path, path: ModulePath) {
        let source = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&source).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.add(parsed.items, dir, path);
    }

    /// Adds the module `path` and the modules in it, whose files are in `dir`.
    fn add(&mut self, items: Vec<Item>, dir: &Path, path: ModulePath) {
        for item in &items {
            let Item::Mod(module) = item else { continue };
            if is_conditional(&module.attrs) {
                continue;
            }
            let name = module.ident.to_string();
            let mut inner = path.clone();
            inner.push(name.clone());
            let inner_dir = dir.join(&name);
            match &module.content {
                Some((_, items)) => self.add(items.clone(), &inner_dir, inner),
                None => {
                    let file = dir.join(format!("{name}.rs"));
                    let file = if file.exists() { file } else { inner_dir.join("mod.rs") };
                    self.add_file(&file, &inner_dir, inner);
                }
            }
        }
        self.modules.insert(path, items);
    }

    /// All impls of the crate for the type `name`.
    pub(crate) fn impls_of(&self, name: &str) -> impl Iterator<Item = &ItemImpl> {
        self.modules.values().flatten().filter_map(move |item| match item {
            Item::Impl(item) if self_name(item).as_deref() == Some(name) && !is_conditional(&item.attrs) => Some(item),
            _ => None,
        })
    }
}

/// Whether the item is not part of the API: a test, a documentation module, code of an unstable
/// feature, or a hidden item.
pub(crate) fn is_conditional(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") || is_hidden(attribute))
}

fn is_hidden(attribute: &Attribute) -> bool {
    let mut hidden = false;
    if attribute.path().is_ident("doc") && matches!(attribute.meta, syn::Meta::List(_)) {
        let parsed = attribute.parse_nested_meta(|meta| {
            hidden |= meta.path.is_ident("hidden");
            Ok(())
        });
        parsed.unwrap();
    }
    hidden
}

fn self_name(item: &ItemImpl) -> Option<String> {
    match &*item.self_ty {
        syn::Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

/// The name of an item, if a path can lead to it.
pub(crate) fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Struct(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Const(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// The paths in a `use`, each with the name that it gives the item.
pub(crate) fn uses(tree: &UseTree) -> Vec<(ModulePath, String)> {
    match tree {
        UseTree::Path(path) => {
            let first = path.ident.to_string();
            let with_first = |(mut rest, name): (ModulePath, String)| {
                rest.insert(0, first.clone());
                (rest, name)
            };
            uses(&path.tree).into_iter().map(with_first).collect()
        }
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => vec![(vec![rename.ident.to_string()], rename.rename.to_string())],
        UseTree::Group(group) => group.items.iter().flat_map(uses).collect(),
        UseTree::Glob(_) => panic!("a re-export with `*` is not followed"),
    }
}

/// Finds the item to which `path`, written in the module `from` of the crate `name`, leads.
pub(crate) fn resolve<'a>(crates: &'a Crates, name: &str, from: &[String], path: &[String]) -> Target<'a> {
    let (first, rest) = path.split_first().expect("a path is not empty");
    let here = &crates[name].modules;
    let below = |module: &[String]| [module, std::slice::from_ref(first)].concat();
    match first.as_str() {
        "crate" => find(crates, name, &[], rest),
        "self" => find(crates, name, from, rest),
        "super" => find(crates, name, &from[..from.len() - 1], rest),
        _ if here.contains_key(&below(from)) => find(crates, name, from, path),
        _ if crates.contains_key(first.as_str()) => find(crates, first, &[], rest),
        _ => Target::Foreign(path.join("::")),
    }
}

/// Finds the item to which `path` leads from the module `from`.
fn find<'a>(crates: &'a Crates, name: &str, from: &[String], path: &[String]) -> Target<'a> {
    let (last, modules) = path.split_last().expect("a path ends with an item");
    let module = [from, modules].concat();
    let items = crates[name].modules.get(&module);
    let items = items.unwrap_or_else(|| panic!("no module {name}::{}", module.join("::")));
    for item in items {
        match item {
            Item::Use(item) => {
                if let Some((path, _)) = uses_here(&item.tree).into_iter().find(|(_, name)| name == last) {
                    return resolve(crates, name, &module, &path);
                }
            }
            item if name_of(item).as_ref() == Some(last) => return Target::Item(&crates[name], item),
            _ => {}
        }
    }
    panic!("no {last} in {}::{}", name, module.join("::"))
}

/// Like [`uses`], but includes private uses, which may be globs.
fn uses_here(tree: &UseTree) -> Vec<(ModulePath, String)> {
    if has_glob(tree) { Vec::new() } else { uses(tree) }
}

fn has_glob(tree: &UseTree) -> bool {
    match tree {
        UseTree::Path(path) => has_glob(&path.tree),
        UseTree::Group(group) => group.items.iter().any(has_glob),
        UseTree::Glob(_) => true,
        UseTree::Name(_) | UseTree::Rename(_) => false,
    }
}

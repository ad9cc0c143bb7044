//! Writes the JSON Schemas of this package's types into its `schema/`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    for (name, text) in admiral_checkpoints_schema::json_schemas() {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

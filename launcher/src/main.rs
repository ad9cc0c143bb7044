//! The program `admiral-launch`.

fn main() -> std::process::ExitCode {
    admiral_launch::cli::main()
}

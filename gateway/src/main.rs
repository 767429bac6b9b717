fn main() -> std::process::ExitCode {
    gateway::cli::main(std::env::args_os().collect(), None)
}

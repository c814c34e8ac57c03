// The `coppice` program: reads the command line, runs a command, and turns what went wrong into one line and
// an exit status.

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <system_error>

#include <CLI/CLI.hpp>

#include "common/base/error.h"
#include "common/io/files.h"
#include "common/transport/mpi.h"
#include "coordinator/cli/bench.h"
#include "coordinator/cli/control.h"
#include "coordinator/cli/generate.h"
#include "coordinator/cli/inspect.h"
#include "coordinator/cli/jobs.h"
#include "coordinator/cli/run.h"
#include "coordinator/cli/run_folder.h"
#include "coordinator/cli/score.h"
#include "coordinator/cli/serve.h"
#include "coordinator/cli/submit.h"
#include "coordinator/cli/tokenize.h"
#include "coordinator/cli/watch.h"

namespace coppice {
namespace {

constexpr int kJobFailed = 1, kBadInput = 2;
constexpr const char* kPackRowsHelp =
    "rows (tokens) of a full pack (default: 512 to 2048, by the dtype, the work in a row and the threads)";

std::string command_line(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) line += (i > 0 ? " " : "") + shell_word(argv[i]);
  return line;
}

void add_compute(CLI::App& app, ComputeOptions& compute) {
  app.add_option(
         "--dtype", compute.dtype,
         "dtype of matrix products: float32, bfloat16, or auto: what a run began in, else bfloat16 where "
         "the processor has AVX512_BF16 or AMX, else float32")
      ->capture_default_str();
  app.add_option("--threads", compute.threads, "threads of a worker (default: the host's cores)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--device", compute.device, "cpu, or ref (plain loops: the slow reference)")
      ->capture_default_str();
}

void add_session(CLI::App& app, SessionOptions& session) {
  app.add_option("--output", session.output, "run folder")->required()->type_name("DIR");
  app.add_option("--stages", session.stages, "stages of a pipeline")->capture_default_str();
  app.add_option("--pipelines", session.pipelines, "pipelines, each with the whole backbone")
      ->capture_default_str();
  app.add_option("--param-ranks", session.param_ranks,
                 "ranks that hold the parameters; 0: the coordinator does")
      ->capture_default_str();
  app.add_option("--split", session.split, "layers of each stage (default: by measured cost)")
      ->type_name("N,N,...");
  app.add_option("--pack-rows", session.pack_rows, kPackRowsHelp)
      ->check(CLI::Range(int64_t(1), int64_t(1) << 31));
  app.add_option("--memory", session.memory_bytes,
                 "what may be used of each host's memory: 800MiB, 2GiB (default: what is available)")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(int64_t(1), int64_t(1) << 62))
      ->type_name("SIZE");
  app.add_option("--trace", session.trace, "write what every rank did when, for Perfetto")->type_name("FILE");
  add_compute(app, session.compute);
}

void add_server(CLI::App& app, ServerOptions& server) {
  app.add_option("--server", server.address, "where coppice serve listens")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--token-file", server.token_file,
                 "the file token of the server's folder (or COPPICE_TOKEN)")
      ->type_name("FILE");
}

class Program {
 public:
  Program(int argc, char** argv) : app_("Tunes many tasks at once on one frozen model.") {
    app_.require_subcommand(1);
    app_.set_version_flag("--version", std::string(COPPICE_VERSION));
    run_.command_line = command_line(argc, argv);
    add_run();
    add_serve();
    add_folder_commands();
    add_server_commands();
    add_score();
    add_generate();
    add_text_commands();
    add_bench();
  }

  int main(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& success) {
      return app_.exit(success);
    } catch (const CLI::ParseError& error) {
      if (MpiRuntime::launched_rank() > 0) return 0;  // all ranks find the same; one says it
      std::fprintf(stderr, "coppice: %s (coppice --help lists commands and options)\n", error.what());
      return kBadInput;
    }
    return command_();
  }

 private:
  CLI::App& command(const std::string& name, const std::string& what, std::function<int()> body) {
    CLI::App* sub = app_.add_subcommand(name, what);
    sub->callback([this, body = std::move(body)] { command_ = body; });
    return *sub;
  }

  void add_run() {
    auto& app = command("run", "Run the jobs of a file to their end, or go on where they stood",
                        [this] { return run_jobs(run_); });
    app.add_option("jobs", run_.jobs_file, "job file (YAML)")->required()->type_name("JOBS.yaml");
    add_session(app, run_.session);
    app.add_option("--set", run_.overrides, "override a key: --set defaults.train.max_steps=20")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    app.add_option("--progress", run_.progress, "auto, table, lines, none")->capture_default_str();
    app.add_flag("--dry-run", run_.dry_run,
                 "check everything, print steps, tokens, parameters and memory, and stop");
    app.add_flag("--retry-failed", run_.retry_failed,
                 "jobs that failed go on from their last committed step");
  }

  void add_serve() {
    auto& app = command("serve", "Stay up and take jobs over the network", [this] { return serve(serve_); });
    app.add_option("--backbone", serve_.backbone, "Hugging Face model folder")->required()->type_name("PATH");
    app.add_option("--listen", serve_.listen, "address to listen at")
        ->type_name("HOST:PORT")
        ->capture_default_str();
    app.add_flag("--insecure", serve_.insecure,
                 "accept another address than this host's own: tokens and jobs travel unencrypted");
    app.add_option("--progress", serve_.progress, "auto, table, lines, none")->capture_default_str();
    add_session(app, serve_.session);
  }

  void add_folder_commands() {
    auto& jobs = command("jobs", "List the jobs of a run folder, also while it runs, or those of a server",
                         [this] { return folder_.empty() ? list_server_jobs(server_) : list_jobs(folder_); });
    auto* folder =
        jobs.add_option("dir", folder_, "run folder; without one, a server is asked")->type_name("DIR");
    add_server(jobs, server_);
    for (const char* option : {"--server", "--token-file"}) folder->excludes(option);
    auto& exporting =
        command("export", "Write a job's adapter at its newest committed step, in Hugging Face form",
                [this] { return export_job(folder_, job_, out_); });
    exporting.add_option("dir", folder_, "run folder")->required()->type_name("DIR");
    exporting.add_option("job", job_, "name of the job")->required()->type_name("JOB");
    exporting.add_option("out", out_, "folder to write")->required()->type_name("OUT");
  }

  void add_server_commands() {
    auto& submit = command("submit", "Give the jobs of a file to a server: all of them or none",
                           [this] { return submit_jobs(server_, submit_); });
    submit.add_option("jobs", submit_.jobs_file, "job file (YAML)")->required()->type_name("JOBS.yaml");
    submit.add_option("--set", submit_.overrides, "override a key: --set defaults.train.max_steps=20")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    submit.add_flag("--watch", submit_.watch,
                    "follow the jobs until all have ended; exit status 1 if one failed or was cancelled");
    add_server(submit, server_);
    auto& watch = command(
        "watch",
        "Follow a server's job, or all, line by line; Ctrl-C ends the following, never a job. With JOB "
        "until it has ended: exit status 0 if it is done, 1 if it failed or was cancelled",
        [this] { return watch_server(server_, watched_); });
    watch.add_option("job", watched_, "name of the job")->type_name("JOB");
    add_server(watch, server_);
    add_control("cancel", "End a server's job at its next step; it keeps its last committed one", cancel_job);
    add_control("pause", "Let a server's job wait after its next step", pause_job);
    add_control("resume", "Let a paused job of a server go on", resume_job);
  }

  void add_control(const std::string& name, const std::string& what,
                   int (*body)(const ServerOptions& server, const std::string& job)) {
    auto& app = command(name, what, [this, body] { return body(server_, job_); });
    app.add_option("job", job_, "name of the job")->required()->type_name("JOB");
    add_server(app, server_);
  }

  void add_score() {
    auto& app = command("score", "Log-probabilities of data, one JSON line per line",
                        [this] { return run_score(score_); });
    app.add_option("--backbone", score_.backbone, "Hugging Face model folder")->required()->type_name("PATH");
    app.add_option("--adapter", score_.adapter, "adapter folder")->type_name("PATH");
    app.add_option("--data", score_.data, "JSONL file")->required()->type_name("FILE");
    app.add_option("--output", score_.output, "file to write")->required()->type_name("FILE");
    add_compute(app, score_.compute);
  }

  void add_generate() {
    auto& app = command("generate", "Sample from the backbone or from an adapter",
                        [this] { return run_generate(generate_); });
    app.add_option("--backbone", generate_.backbone, "Hugging Face model folder")
        ->required()
        ->type_name("PATH");
    app.add_option("--adapter", generate_.adapter, "adapter folder")->type_name("PATH");
    app.add_option("--prompt", generate_.prompts, "text to go on from; may be given several times")
        ->required()
        ->type_name("TEXT")
        ->allow_extra_args(false);
    app.add_option("--max-new-tokens", generate_.max_new_tokens, "at most so many new tokens")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 31))
        ->capture_default_str();
    app.add_option("--temperature", generate_.temperature, "0: greedy")
        ->check(CLI::Range(0.0, 1e6))
        ->capture_default_str();
    app.add_option("--top-p", generate_.top_p, "nucleus sampling")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_option("--seed", generate_.seed, "of the sampling")->capture_default_str();
    add_compute(app, generate_.compute);
  }

  void add_text_commands() {
    auto& tokenize = command("tokenize", "Token ids of every line of a file, as JSON arrays",
                             [this] { return run_tokenize(path_, file_, !no_special_tokens_); });
    tokenize.add_option("path", path_, "backbone folder or tokenizer.json")->required()->type_name("PATH");
    tokenize.add_option("file", file_, "text, one sequence a line")->required()->type_name("FILE");
    tokenize.add_flag("--no-special-tokens", no_special_tokens_, "leave out what the post-processor adds");
    auto& inspect =
        command("inspect", "What a backbone or adapter folder holds", [this] { return run_inspect(path_); });
    inspect.add_option("path", path_, "backbone or adapter folder")->required()->type_name("PATH");
  }

  void add_bench() {
    auto& app = command("bench", "How fast this machine trains: tokens/s, share of the ceiling, memory",
                        [this] { return run_bench(bench_); });
    app.add_option("--backbone", bench_.backbone, "train on this Hugging Face model folder")
        ->type_name("DIR");
    app.add_option("--write-backbone", bench_.write_backbone, "write a backbone of random weights")
        ->type_name("DIR");
    app.add_option("--shape", bench_.shape, "of the random backbone")->capture_default_str();
    app.add_flag("--kernels", bench_.kernels, "measure operators alone");
    app.add_flag("--parameter-server", bench_.parameter_server,
                 "measure a step of the parameter server alone");
    app.add_option("--jobs", bench_.jobs, "LoRA jobs at once")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 16))
        ->capture_default_str();
    app.add_option("--batch", bench_.batch, "sequences of a step")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 16))
        ->capture_default_str();
    app.add_option("--length,--lengths", bench_.lengths, "tokens of a sequence, or a range: 32-512")
        ->capture_default_str();
    app.add_option("--rank", bench_.rank, "of the LoRA factors")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 16))
        ->capture_default_str();
    app.add_option("--steps", bench_.steps, "of each job, measured after one that warms up")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 31))
        ->capture_default_str();
    app.add_option("--pack-rows", bench_.pack_rows, kPackRowsHelp)
        ->check(CLI::Range(int64_t(1), int64_t(1) << 31));
    app.add_option("--stages", bench_.stages, "stages of the pipeline, in this process")
        ->capture_default_str();
    app.add_flag("--gradient-checkpointing", bench_.checkpointing, "compute blocks again in the backward");
    app.add_option("--keep", bench_.keep, "folder for job file, data and run (default: a temporary one)")
        ->type_name("DIR");
    app.add_flag("--profile", bench_.profile, "time of the measured steps by operator");
    add_compute(app, bench_.compute);
  }

  CLI::App app_;
  std::function<int()> command_;
  RunOptions run_;
  ServeOptions serve_;
  ServerOptions server_;
  SubmitOptions submit_;
  std::optional<std::string> watched_;
  ScoreOptions score_;
  GenerateOptions generate_;
  BenchOptions bench_;
  std::string folder_, job_, out_, path_, file_;
  bool no_special_tokens_ = false;
};

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kFailed:
      return kJobFailed;
    default:
      return kBadInput;
  }
}

}  // namespace
}  // namespace coppice

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may grow no more is an error of its write
  try {
    const int status = coppice::Program(argc, argv).main(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      throw coppice::system_error("standard output", "cannot write", errno);
    return status;
  } catch (const coppice::Error& error) {
    std::fprintf(stderr, "coppice: %s\n", error.what());
    return coppice::exit_status(error.code());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "coppice: memory has run out\n");
    return coppice::kBadInput;
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "coppice: %s: %s\n", error.path1().c_str(), error.code().message().c_str());
    return coppice::kBadInput;
  } catch (const std::system_error& error) {  // of a thread that cannot be made
    std::fprintf(stderr, "coppice: the system gives no thread or no memory: %s\n", error.what());
    return coppice::kBadInput;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "coppice: %s\n", error.what());
    return coppice::kJobFailed;
  }
}

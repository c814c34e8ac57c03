#include "coordinator/cli/serve.h"

#include <cstdio>
#include <filesystem>

#include "common/base/error.h"
#include "common/net/rpc_server.h"
#include "coordinator/api/job_service.h"
#include "coordinator/api/token.h"
#include "coordinator/cli/engine_control.h"
#include "coordinator/jobs/job_file.h"
#include "coordinator/schedule/memory_model.h"

namespace coppice {
namespace {

// What a job of an earlier run was asked to be.
JobSpec spec_of(const JobRecord& record, const Backbone& backbone) {
  const Json file{{"backbone", backbone.path}, {"jobs", Json::array({record.keys})}};
  return parse_job_file(file, "job " + record.name, "/").jobs.at(0);
}

// What would fail all jobs refuses the start.
void check_known(const RunFolder& folder, Session& session) {
  for (const StoredJob& stored : folder.jobs()) {
    if (has_ended(stored.record.state)) continue;
    require_same_machine(stored.record, session.backbone(), session.device().dtype_name(),
                         session.device().backend->instruction_set());
  }
}

// A job that the folder knows, with what it takes to go on; or why it cannot.
struct Known {
  StoredJob stored;
  std::unique_ptr<PreparedJob> job;
  std::string reason;
};

// One whose data is not what it was fails alone, until it is again. All are checked before the first runs, so
// that what they hold while they are checked is not held beside jobs that run.
std::vector<Known> check_again(const RunFolder& folder, Session& session, int64_t free_bytes) {
  Preparation preparation(session.backbone(), free_bytes);
  std::vector<Known> all;
  for (StoredJob& stored : folder.jobs()) {
    Known& known = all.emplace_back(Known{std::move(stored), nullptr, {}});
    if (has_ended(known.stored.record.state)) continue;
    try {
      auto job = preparation.prepare(spec_of(known.stored.record, session.backbone()));
      known.stored = *folder.known(*job, session.backbone(), session.device().dtype_name(),
                                   session.device().backend->instruction_set(), false);
      known.job = std::move(job);
    } catch (const Error& error) {
      known.reason = error.what();
    }
  }
  return all;
}

// One that this server has no memory for waits: with more, it goes on.
void go_on(const RunFolder& folder, Session& session, Engine& engine) {
  for (Known& known : check_again(folder, session, engine.free_bytes())) {
    if (known.job) {
      engine.submit(std::move(known.job), std::move(known.stored));
    } else {
      engine.keep(std::move(known.stored), known.reason);
    }
  }
}

JobNews to_news(const JobEvent& event, const EngineControl& control) {
  JobNews news;
  news.kind = event.kind == JobEvent::Kind::kStep         ? JobNews::Kind::kStep
              : event.kind == JobEvent::Kind::kEvaluation ? JobNews::Kind::kEvaluation
                                                          : JobNews::Kind::kState;
  news.job = control.status(*event.run);
  news.grad_norm = event.run->grad_norm;
  news.learning_rate = event.run->learning_rate;
  return news;
}

// What this process had at most, and what the model said of all ranks on this host, where a job ran.
void tell_memory(const Engine& engine) {
  std::string line = fmt::format("stopped; this process took at most {} MiB", peak_memory_bytes() >> 20);
  if (engine.most_memory_bytes() > 0) {
    line += fmt::format("; memory on this host: by the memory model at most {} MiB",
                        engine.most_memory_bytes() >> 20);
  }
  std::fprintf(stderr, "coppice: %s\n", line.c_str());
}

}  // namespace

int serve(const ServeOptions& options) {
  StopOnSignal signals;
  Launch launch;
  if (!launch.leads()) return launch.follow();
  auto progress = Progress::make(options.progress);
  std::string path = std::filesystem::absolute(options.backbone).lexically_normal().string();
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  Session session(options.session, launch, read_backbone(path),
                  [](const JobRecord& record) { return !has_ended(record.state); });
  RpcServerOptions network;
  network.listen = options.listen;
  network.loopback_only = !options.insecure;
  RpcServer server(network);  // first: where it is refused, no folder is left behind
  RunFolder& folder = session.open_folder();
  const std::string token = write_token(options.session.output);
  check_known(folder, session);
  Engine& engine = session.start();
  EngineControl control(engine, session.backbone(), options.session.output);
  JobService service(server, control, token);
  engine.on_event([&](const JobEvent& event) {
    progress->event(event);
    if (event.kind == JobEvent::Kind::kState && event.run->record.state == JobState::kFailed)
      progress->note(event.run->name() + ": " + control.way_to_retry(*event.run));
    if (service.watched()) service.event(to_news(event, control));
  });
  go_on(folder, session, engine);
  std::fprintf(stderr, "coppice: serving %s on %s; the token is in %s/token\n",
               session.backbone().path.c_str(), server.address().c_str(), options.session.output.c_str());
  session.work(
      *progress,
      [&] {
        const bool prepared = control.poll();
        return service.poll() || prepared;
      },
      true);
  tell_memory(engine);
  return 0;
}

}  // namespace coppice

// What the commands that follow a server print, and the exit status they end with.
#include "coordinator/cli/watch.h"

#include <gtest/gtest.h>

#include <stdlib.h>

#include <thread>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/api/serving.h"

namespace coppice {
namespace {

class WatchTest : public testing::Test {
 protected:
  WatchTest() {
    ::setenv("COPPICE_TOKEN", kToken.c_str(), 1);
    server_.address = served_.options().server;
    served_.on_main([](ScriptedControl& control, JobService&) {
      control.jobs = {running("a", 0), running("b", 1)};
    });
  }
  ~WatchTest() override { ::unsetenv("COPPICE_TOKEN"); }

  // What body prints while script tells what happens to the jobs, from when somebody watches.
  std::string printed(const std::function<void()>& body, const std::function<void()>& script) {
    testing::internal::CaptureStdout();
    std::thread telling([&] {
      if (served_.until([](ScriptedControl&, JobService& service) { return service.watched(); })) script();
    });
    body();
    telling.join();
    return testing::internal::GetCapturedStdout();
  }
  void end(const std::string& job, JobState state, const std::string& reason = "") {
    served_.tell(job, JobNews::Kind::kState, [&](JobStatus& status) {
      status.state = state;
      status.reason = reason;
    });
  }

  ServedJobs served_;
  ServerOptions server_;
};

TEST_F(WatchTest, OneJobToItsEnd) {
  int exit_status = -1;
  const std::string text =
      printed([&] { exit_status = watch_server(server_, "a"); },
              [&] {
                served_.tell("b", JobNews::Kind::kStep, [](JobStatus& job) { job.step = 9; });
                served_.tell("a", JobNews::Kind::kStep, [](JobStatus& job) {
                  job.step = 1;
                  job.loss = 2.5;
                });
                served_.tell("a", JobNews::Kind::kEvaluation, [](JobStatus& job) { job.eval_loss = 3.25; });
                end("a", JobState::kDone);
              });
  EXPECT_EQ(exit_status, 0);
  EXPECT_EQ(text,
            "a: running at step 0/10\n"
            "a: step 1/10 loss 2.5000 grad_norm 0.5000 learning_rate 0.001\n"
            "a: step 1 eval_loss 3.2500\n"
            "a: done at step 1/10\n");
}

TEST_F(WatchTest, AFailureIsToldAndIsTheExitStatus) {
  int exit_status = -1;
  const std::string text = printed([&] { exit_status = watch_server(server_, "a"); },
                                   [&] { end("a", JobState::kFailed, "loss is nan"); });
  EXPECT_EQ(exit_status, 1);
  EXPECT_NE(text.find("a: failed at step 0/10: loss is nan\n"), std::string::npos) << text;
  testing::internal::CaptureStdout();
  EXPECT_EQ(watch_server(server_, "a"), 1);  // also when it has ended before
  testing::internal::GetCapturedStdout();
}

TEST_F(WatchTest, SeveralJobsUntilTheLastHasEnded) {
  int exit_status = -1;
  const std::string text = printed(
      [&] {
        JobClient client = connect(server_);
        exit_status = watch_jobs(client, {"a", "b"});
      },
      [&] {
        end("b", JobState::kCancelled);
        served_.tell("a", JobNews::Kind::kState, [](JobStatus& job) { job.state = JobState::kPaused; });
        end("a", JobState::kDone);
      });
  EXPECT_EQ(exit_status, 1);
  EXPECT_NE(text.find("a: paused"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("a: done at step 0/10\n")) << text;
}

TEST_F(WatchTest, AServersTableIsThatOfAFolder) {
  served_.on_main([](ScriptedControl& control, JobService&) {
    control.jobs[1].state = JobState::kFailed;
    control.jobs[1].reason = "why";
    control.jobs[1].loss = 1.5;
  });
  testing::internal::CaptureStdout();
  EXPECT_EQ(list_server_jobs(server_), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(
      text.find("a                                running             0/10         -         -         1000"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("1.5000"), std::string::npos) << text;
  EXPECT_NE(text.find("  why\n"), std::string::npos) << text;
}

TEST_F(WatchTest, AServerThatGoesIsAnError) {
  ServerOptions server;
  Error error = failed("no error");
  {
    auto served = std::make_unique<ServedJobs>();
    server.address = served->options().server;
    testing::internal::CaptureStdout();
    std::thread going([&] {
      served->until([](ScriptedControl&, JobService& service) { return service.watched(); });
      served.reset();
    });
    error = error_of([&] { watch_server(server, std::nullopt); });
    going.join();
    testing::internal::GetCapturedStdout();
  }
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_EQ(error.what(), server.address + ": the server has closed the connection");
}

}  // namespace
}  // namespace coppice

#include "coordinator/api/job_service.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/api/serving.h"

namespace coppice {
namespace {

bool says(const Error& error, std::string_view word) {
  return std::string_view(error.what()).find(word) != std::string_view::npos;
}

TEST(JobServiceTest, SubmitListsWhatWasAccepted) {
  ServedJobs served;
  JobClient client(served.options());
  EXPECT_TRUE(client.list().empty());
  const auto accepted = client.submit({"/backbone", {"a", "b"}});
  ASSERT_EQ(accepted.size(), 2u);
  EXPECT_EQ(accepted[1].name, "b");
  EXPECT_EQ(accepted[1].total_steps, 10);
  EXPECT_EQ(accepted[1].trainable_parameters, 1000);
  EXPECT_EQ(accepted[1].memory_bytes, 16000);
  const auto jobs = client.list();
  ASSERT_EQ(jobs.size(), 2u);
  EXPECT_EQ(jobs[0].name, "a");
  EXPECT_EQ(jobs[1].ordinal, 1);
  EXPECT_EQ(jobs[1].state, JobState::kRunning);
}

TEST(JobServiceTest, AStatusArrivesWhole) {
  ServedJobs served;
  JobStatus sent = running("a", 3);
  sent.state = JobState::kFailed;
  sent.reason = "loss is nan";
  sent.step = 7;
  sent.loss = 1.5;
  sent.eval_loss = 2.5;
  sent.tokens = 1234567890123;
  sent.tokens_per_second = 99.5;
  sent.seconds_left = 12.25;
  served.on_main([&](ScriptedControl& control, JobService&) { control.jobs = {sent, running("b", 4)}; });
  JobClient client(served.options());
  const auto jobs = client.list();
  ASSERT_EQ(jobs.size(), 2u);
  EXPECT_EQ(jobs[0].ordinal, 3);
  EXPECT_EQ(jobs[0].state, JobState::kFailed);
  EXPECT_EQ(jobs[0].reason, "loss is nan");
  EXPECT_EQ(jobs[0].step, 7);
  EXPECT_EQ(jobs[0].total_steps, 10);
  EXPECT_EQ(jobs[0].loss, 1.5);
  EXPECT_EQ(jobs[0].eval_loss, 2.5);
  EXPECT_EQ(jobs[0].trainable_parameters, 1000);
  EXPECT_EQ(jobs[0].tokens, 1234567890123);
  EXPECT_EQ(jobs[0].tokens_per_second, 99.5);
  EXPECT_EQ(jobs[0].seconds_left, 12.25);
  EXPECT_FALSE(jobs[1].loss || jobs[1].eval_loss || jobs[1].seconds_left);
}

TEST(JobServiceTest, ARefusedSubmissionSaysWhyAndTheClientGoesOn) {
  ServedJobs served;
  JobClient client(served.options());
  const Error later = error_of([&] { client.submit({"/backbone", {"a", "bad"}}); });
  EXPECT_EQ(later.code(), ErrorCode::kInvalid);
  EXPECT_EQ(later.what(), served.options().server + ": submit: jobs.bad: learning_rate is -1");
  EXPECT_TRUE(says(error_of([&] { client.submit({"/other", {"a"}}); }), "/other"));
  EXPECT_EQ(client.submit({"/backbone", {"c"}}).size(), 1u);
}

TEST(JobServiceTest, OthersAreServedWhileASubmissionIsPrepared) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) { control.waits = true; });
  std::vector<AcceptedJob> accepted;
  std::thread submitting([&] { accepted = JobClient(served.options()).submit({"/backbone", {"slow"}}); });
  EXPECT_TRUE(served.until([](ScriptedControl& control, JobService&) { return !control.waiting.empty(); }));
  EXPECT_TRUE(JobClient(served.options()).list().empty());
  served.on_main([](ScriptedControl& control, JobService&) { control.answer_all(); });
  submitting.join();
  EXPECT_EQ(accepted.size(), 1u);
}

TEST(JobServiceTest, CancelPauseResumeReachTheJob) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) { control.jobs = {running("a", 0)}; });
  JobClient client(served.options());
  client.pause("a");
  EXPECT_EQ(client.list()[0].state, JobState::kPaused);
  client.resume("a");
  EXPECT_EQ(client.list()[0].state, JobState::kRunning);
  client.cancel("a");
  EXPECT_EQ(client.list()[0].state, JobState::kCancelled);
  const Error ended = error_of([&] { client.pause("a"); });
  EXPECT_EQ(ended.code(), ErrorCode::kInvalid);
  EXPECT_TRUE(says(ended, "cancelled")) << ended.what();
  const Error unknown = error_of([&] { client.resume("b"); });
  EXPECT_EQ(unknown.code(), ErrorCode::kNotFound);
  EXPECT_TRUE(says(unknown, "no job b")) << unknown.what();
}

TEST(JobServiceTest, WatchingAJobEndsWithIt) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) {
    control.jobs = {running("a", 0), running("b", 1)};
  });
  std::vector<JobNews> news;
  std::vector<JobStatus> first;
  std::thread watching([&] {
    JobClient(served.options())
        .watch(
            "a",
            [&](const std::vector<JobStatus>& jobs) {
              first = jobs;
              return true;
            },
            [&](const JobNews& each) {
              news.push_back(each);
              return true;
            });
  });
  EXPECT_TRUE(served.until([](ScriptedControl&, JobService& service) { return service.watched(); }));
  served.tell("b", JobNews::Kind::kStep, [](JobStatus& job) { job.step = 5; });
  served.tell("a", JobNews::Kind::kStep, [](JobStatus& job) {
    job.step = 1;
    job.loss = 2.5;
  });
  served.tell("a", JobNews::Kind::kEvaluation, [](JobStatus& job) { job.eval_loss = 3.5; });
  served.tell("b", JobNews::Kind::kState, [](JobStatus& job) { job.state = JobState::kDone; });
  served.tell("a", JobNews::Kind::kState, [](JobStatus& job) { job.state = JobState::kDone; });
  watching.join();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].name, "a");
  ASSERT_EQ(news.size(), 3u);
  EXPECT_EQ(news[0].kind, JobNews::Kind::kStep);
  EXPECT_EQ(news[0].job.loss, 2.5);
  EXPECT_EQ(news[0].grad_norm, 0.5);
  EXPECT_EQ(news[0].learning_rate, 1e-3);
  EXPECT_EQ(news[1].kind, JobNews::Kind::kEvaluation);
  EXPECT_EQ(news[1].job.eval_loss, 3.5);
  EXPECT_EQ(news[2].job.state, JobState::kDone);
  EXPECT_TRUE(served.until([](ScriptedControl&, JobService& service) { return !service.watched(); }));
}

TEST(JobServiceTest, WatchingAJobThatHasEndedEndsAtOnce) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) {
    control.jobs = {running("a", 0)};
    control.jobs[0].state = JobState::kFailed;
  });
  JobClient client(served.options());
  int seen = 0;
  client.watch(
      "a", [&](const auto& jobs) { return ++seen, jobs.at(0).state == JobState::kFailed; },
      [](const JobNews&) { return true; });
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(client.list().size(), 1u);  // the connection serves on
}

TEST(JobServiceTest, WatchingAllSeesJobsThatComeLaterAndEndsWithTheClient) {
  ServedJobs served;
  {
    JobClient client(served.options());
    std::vector<std::string> seen;
    client.watch(
        std::nullopt,
        [&](const std::vector<JobStatus>& jobs) {
          EXPECT_TRUE(jobs.empty());
          served.on_main([](ScriptedControl& control, JobService&) { control.jobs = {running("new", 0)}; });
          std::thread([&] {
            served.until([](ScriptedControl&, JobService& service) { return service.watched(); });
            served.tell("new", JobNews::Kind::kState, [](JobStatus&) {});
            served.tell("new", JobNews::Kind::kState, [](JobStatus& job) { job.state = JobState::kDone; });
          }).join();
          return true;
        },
        [&](const JobNews& news) {
          seen.push_back(news.job.name + " " + std::string(job_state_name(news.job.state)));
          return seen.size() < 2;
        });
    EXPECT_EQ(seen, (std::vector<std::string>{"new running", "new done"}));
    EXPECT_TRUE(served.until([](ScriptedControl&, JobService& service) { return service.watched(); }));
  }
  EXPECT_TRUE(served.until([](ScriptedControl&, JobService& service) { return !service.watched(); }));
}

TEST(JobServiceTest, WatchingAnUnknownJobNamesThoseThereAre) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) {
    for (int i = 0; i < 12; ++i) control.jobs.push_back(running("job-" + std::to_string(i), i));
  });
  const Error error = error_of([&] {
    JobClient(served.options())
        .watch(
            "nobody", [](const auto&) { return true; }, [](const JobNews&) { return true; });
  });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_TRUE(says(error, "no job nobody; there is job-0, ") && says(error, " and 2 more")) << error.what();
}

TEST(JobServiceTest, ManyClientsSubmitAndWatchAtOnce) {
  ServedJobs served;
  std::vector<std::thread> clients;
  std::atomic<int> ended = 0;
  for (int c = 0; c < 12; ++c) {
    clients.emplace_back([&, c] {
      const std::string name = "job-" + std::to_string(c);
      JobClient client(served.options());
      client.submit({"/backbone", {name}});
      client.watch(
          name,
          [&](const auto&) {
            std::thread([&] {
              for (int step = 1; step <= 10; ++step) {
                served.tell(name, JobNews::Kind::kStep, [&](JobStatus& job) { job.step = step; });
              }
              served.tell(name, JobNews::Kind::kState, [](JobStatus& job) { job.state = JobState::kDone; });
            }).join();
            return true;
          },
          [&](const JobNews& news) {
            EXPECT_EQ(news.job.name, name);
            ended += news.job.state == JobState::kDone;
            return true;
          });
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(ended, 12);
}

}  // namespace
}  // namespace coppice

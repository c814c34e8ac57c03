// What the job service refuses, and that neither it nor other clients are the worse for it.
#include <gtest/gtest.h>

#include "common/net/rpc_client.h"
#include "proto/rpc.pb.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/api/serving.h"

namespace coppice {
namespace {

bool says(const Error& error, std::string_view word) {
  return std::string_view(error.what()).find(word) != std::string_view::npos;
}

// Requests one by one, without JobClient's manners.
class RawClient {
 public:
  explicit RawClient(const ServedJobs& served) : client_({.server = served.options().server}) {}

  void send(proto::Request request, const std::string& token = kToken) {
    request.set_token(token);
    request.set_id(++last_);
    client_.send(request.SerializeAsString());
  }
  void hello(uint32_t version = proto::RPC_VERSION, const std::string& token = kToken) {
    proto::Request request;
    request.mutable_hello()->set_version(version);
    send(request, token);
  }
  proto::Reply receive() {
    proto::Reply reply;
    EXPECT_TRUE(reply.ParseFromString(client_.receive(10000)));
    return reply;
  }
  // The connection has been closed.
  void expect_end() {
    EXPECT_EQ(error_of([&] { client_.receive(10000); }).code(), ErrorCode::kNotFound);
  }
  RpcClient& connection() { return client_; }

 private:
  RpcClient client_;
  uint64_t last_ = 0;
};

TEST(JobServiceLimitsTest, AWrongOrMissingTokenIsToldAndSentAway) {
  ServedJobs served;
  for (const auto& [token, word] :
       {std::pair(std::string(64, '8'), "wrong"), std::pair(std::string(), "missing"),
        std::pair(kToken + "7", "wrong"), std::pair(kToken.substr(1), "wrong")}) {
    JobClientOptions options = served.options();
    options.token = token;
    const Error error = error_of([&] { JobClient client(options); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_TRUE(says(error, word) && says(error, "--token-file") && says(error, "COPPICE_TOKEN"))
        << error.what();
    EXPECT_FALSE(says(error, kToken)) << error.what();
  }
}

TEST(JobServiceLimitsTest, EveryRequestNeedsTheToken) {
  ServedJobs served;
  RawClient client(served);
  client.hello();
  EXPECT_TRUE(client.receive().has_welcome());
  proto::Request list;
  list.mutable_list();
  client.send(list);
  EXPECT_TRUE(client.receive().has_jobs());
  client.send(list, "");
  const proto::Reply reply = client.receive();
  EXPECT_EQ(reply.id(), 3u);
  EXPECT_NE(reply.error().message().find("missing"), std::string::npos);
  client.expect_end();
}

TEST(JobServiceLimitsTest, TheFirstRequestIsAHelloOfThisVersion) {
  ServedJobs served;
  RawClient other(served);
  other.hello(99);
  const proto::Reply reply = other.receive();
  EXPECT_EQ(reply.error().code(), int(ErrorCode::kUnsupported));
  EXPECT_NE(reply.error().message().find("version 99"), std::string::npos);
  other.expect_end();
  RawClient hasty(served);
  proto::Request list;
  list.mutable_list();
  hasty.send(list);
  EXPECT_TRUE(hasty.receive().has_error());
  hasty.expect_end();
}

TEST(JobServiceLimitsTest, WhatIsNoRequestIsSentAwayAndWhatAsksNothingIsRefused) {
  ServedJobs served;
  RawClient noise(served);
  noise.connection().send("\xff\xff no protobuf");
  EXPECT_TRUE(noise.receive().has_error());
  noise.expect_end();
  RawClient empty(served);
  empty.connection().send("");
  EXPECT_NE(empty.receive().error().message().find("missing"), std::string::npos);
  empty.expect_end();
  RawClient later(served);
  later.hello();
  later.receive();
  later.send(proto::Request());  // as a later version's kind of request would look
  EXPECT_EQ(later.receive().error().code(), int(ErrorCode::kUnsupported));
  later.hello();
  EXPECT_TRUE(later.receive().has_welcome());
}

TEST(JobServiceLimitsTest, SubmissionsOfOneClientAreBoundedAndNobodyElses) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) { control.waits = true; });
  RawClient client(served), other(served);
  proto::Request submit;
  submit.mutable_submit()->set_backbone("/backbone");
  submit.mutable_submit()->add_jobs("a");
  client.hello();
  client.receive();
  other.hello();
  other.receive();
  for (int i = 0; i < 5; ++i) client.send(submit);
  const proto::Reply refused = client.receive();
  EXPECT_EQ(refused.id(), 6u);
  EXPECT_EQ(refused.error().code(), int(ErrorCode::kBusy));
  other.send(submit);
  EXPECT_TRUE(
      served.until([](ScriptedControl& control, JobService&) { return control.waiting.size() == 5; }));
  served.on_main([](ScriptedControl& control, JobService&) { control.answer_all(); });
  for (uint64_t id = 2; id <= 5; ++id) {
    const proto::Reply reply = client.receive();
    EXPECT_EQ(reply.id(), id);
    EXPECT_TRUE(reply.has_submitted());
  }
  EXPECT_TRUE(other.receive().has_submitted());
  served.on_main([](ScriptedControl& control, JobService&) { control.waits = false; });
  client.send(submit);
  EXPECT_TRUE(client.receive().has_submitted());
}

TEST(JobServiceLimitsTest, BytesOfWaitingSubmissionsAreBounded) {
  JobServiceLimits limits;
  limits.submit_bytes = 1000;
  ServedJobs served(limits);
  served.on_main([](ScriptedControl& control, JobService&) { control.waits = true; });
  RawClient client(served);
  client.hello();
  client.receive();
  proto::Request submit;
  submit.mutable_submit()->set_backbone("/backbone");
  submit.mutable_submit()->add_jobs(std::string(600, 'a'));
  client.send(submit);
  client.send(submit);
  const proto::Reply refused = client.receive();
  EXPECT_EQ(refused.id(), 3u);
  EXPECT_NE(refused.error().message().find("1000"), std::string::npos) << refused.error().message();
}

TEST(JobServiceLimitsTest, WatchesOfOneClientAreBounded) {
  JobServiceLimits limits;
  limits.watches = 2;
  ServedJobs served(limits);
  RawClient client(served);
  client.hello();
  client.receive();
  proto::Request watch;
  watch.mutable_watch();
  for (int i = 0; i < 2; ++i) {
    client.send(watch);
    EXPECT_TRUE(client.receive().has_jobs());
  }
  client.send(watch);
  EXPECT_EQ(client.receive().error().code(), int(ErrorCode::kBusy));
}

TEST(JobServiceLimitsTest, AClientThatVanishesDuringItsSubmissionLeavesNothingHanging) {
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) { control.waits = true; });
  {
    RawClient client(served);
    client.hello();
    client.receive();
    proto::Request submit;
    submit.mutable_submit()->set_backbone("/backbone");
    submit.mutable_submit()->add_jobs("a");
    client.send(submit);
    EXPECT_TRUE(served.until([](ScriptedControl& control, JobService&) { return !control.waiting.empty(); }));
  }
  RawClient watcher(served);
  watcher.hello();
  watcher.receive();
  served.on_main([](ScriptedControl& control, JobService&) { control.answer_all(); });
  const auto jobs = JobClient(served.options()).list();
  ASSERT_EQ(jobs.size(), 1u);  // what it submitted goes on
  EXPECT_EQ(jobs[0].name, "a");
}

TEST(JobServiceLimitsTest, AnAnswerThatComesAfterTheServiceHasGoneFindsNobody) {
  std::function<void(SubmitResult)> late;
  {
    ServedJobs served;
    served.on_main([](ScriptedControl& control, JobService&) { control.waits = true; });
    RawClient client(served);
    client.hello();
    client.receive();
    proto::Request submit;
    submit.mutable_submit()->set_backbone("/backbone");
    client.send(submit);
    EXPECT_TRUE(served.until([&](ScriptedControl& control, JobService&) {
      if (control.waiting.empty()) return false;
      late = control.waiting[0].second;
      return true;
    }));
  }
  late({});
}

}  // namespace
}  // namespace coppice

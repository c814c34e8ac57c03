// Requests and replies may be any bytes: they are answered or refused, and nothing else happens.
#include <gtest/gtest.h>

#include <random>

#include "common/net/rpc_client.h"
#include "proto/rpc.pb.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/net/sockets.h"
#include "tests/unit/coordinator/api/serving.h"

namespace coppice {
namespace {

std::string some_request(std::mt19937& random) {
  proto::Request request;
  request.set_id(random());
  request.set_token(kToken);
  switch (random() % 6) {
    case 0:
      request.mutable_hello()->set_version(proto::RPC_VERSION);
      break;
    case 1:
      request.mutable_submit()->set_backbone("/backbone");
      request.mutable_submit()->add_jobs("bad");
      break;
    case 2:
      request.mutable_list();
      break;
    case 3:
      request.mutable_watch()->set_job("a");
      break;
    case 4:
      request.mutable_cancel()->set_job("nobody");
      break;
    default:
      request.mutable_resume()->set_job(std::string(random() % 300, char(random())));
  }
  return request.SerializeAsString();
}

void change(std::string& bytes, std::mt19937& random) {
  for (size_t i = random() % 3; i > 0 && !bytes.empty(); --i) {
    const size_t at = random() % bytes.size();
    switch (random() % 3) {
      case 0:
        bytes[at] = char(random());
        break;
      case 1:
        bytes.erase(at, 1 + random() % 9);
        break;
      default:
        bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 9));
    }
  }
}

TEST(ServiceGarbageTest, AServiceOutlivesAnyRequests) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  ServedJobs served;
  served.on_main([](ScriptedControl& control, JobService&) { control.jobs = {running("a", 0)}; });
  int answered = 0, refused = 0;
  for (int round = 0; round < 150; ++round) {
    RpcClient client({.server = served.options().server});
    proto::Request hello;
    hello.set_token(kToken);
    hello.mutable_hello()->set_version(proto::RPC_VERSION);
    client.send(hello.SerializeAsString());
    client.receive(10000);
    try {
      for (int i = 0; i < 5; ++i) {
        std::string bytes = some_request(random);
        change(bytes, random);
        client.send(bytes);
        proto::Reply reply;
        ASSERT_TRUE(reply.ParseFromString(client.receive(10000)));
        ++(reply.has_error() ? refused : answered);
      }
    } catch (const Error& error) {  // sent away
      EXPECT_EQ(error.code(), ErrorCode::kNotFound) << error.what();
    }
  }
  EXPECT_GT(answered, 5);
  EXPECT_GT(refused, 5);
  EXPECT_EQ(JobClient(served.options()).list().at(0).name, "a");
}

TEST(ServiceGarbageTest, AClientOutlivesAnyReplies) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    proto::Reply welcome, jobs;
    welcome.set_id(1);
    welcome.mutable_welcome()->set_version(proto::RPC_VERSION);
    jobs.set_id(2);
    jobs.mutable_jobs()->add_jobs()->set_name("a\nb");
    jobs.mutable_jobs()->mutable_jobs(0)->set_state(int(random() % 9) - 1);
    std::string bytes = jobs.SerializeAsString();
    change(bytes, random);
    const PlainServer server(make_frame(welcome.SerializeAsString()) + make_frame(bytes));
    JobClientOptions options;
    options.server = server.address();
    try {
      JobClient client(options);
      for (const JobStatus& job : client.list()) EXPECT_EQ(job.name.find('\n'), std::string::npos);
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      EXPECT_NE(error.code(), ErrorCode::kFailed) << error.what();
    }
  }
}

}  // namespace
}  // namespace coppice

#pragma once
// Between the messages of proto/rpc.proto and what the rest of the house calls the same things. Thread: any.
// Errors: kInvalid for values that no server sends.

#include "coordinator/api/job_control.h"
#include "coordinator/api/job_service.h"
#include "proto/rpc.pb.h"

namespace coppice {

proto::RpcJobStatus to_message(const JobStatus& status);
JobStatus from_message(const proto::RpcJobStatus& message);

proto::Event to_message(const JobNews& news);
JobNews from_message(const proto::Event& message);

proto::RpcError to_message(const Error& error);
Error from_message(const proto::RpcError& message, const std::string& server);

}  // namespace coppice

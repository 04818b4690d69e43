// SPDX-License-Identifier: Apache-2.0

// Package agentpb is the only contract between a worker and an agent: the frames of
// one bidirectional stream per host (agents.md "Link"). It holds no behaviour; how frames travel is
// package frame.
//
// agent.proto is the source; `make proto` regenerates the rest. Field numbers are
// never reused, unknown fields are ignored, so that workers and agents of
// neighbouring versions understand each other.
package agentpb

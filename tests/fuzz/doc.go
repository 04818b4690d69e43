// SPDX-License-Identifier: Apache-2.0

// Package fuzz runs every fuzz target of the project for as long as it is told, one
// after another, and keeps what it learned: `make fuzz FOR=5m`. Without a time it only
// proves that each parser of bytes from the network or from a child process has one.
package fuzz

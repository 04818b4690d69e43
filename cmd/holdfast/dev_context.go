// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
)

// devContext is the name of the context of a dev fleet.
const devContext = "dev"

// checkDevContext says early whether the context can be written later.
func checkDevContext(e *env) error {
	c, err := loadConfig(e)
	if err != nil {
		return err
	}
	if old, ok := c.Contexts[devContext]; ok && (old.PID == 0 || old.alive()) {
		if old.PID == 0 {
			return &exitError{fmt.Errorf("context %q: taken by a fleet that is no dev fleet, rename it first", devContext), exitConflict}
		}
		return &exitError{fmt.Errorf("context %q: taken by another holdfast dev (process %d), end it first", devContext, old.PID), exitConflict}
	}
	return nil
}

// writeDevContext makes this fleet the current context. What it returns takes it away
// again and restores what was current before.
func writeDevContext(e *env, endpoints []string) (restore func() error, err error) {
	c, err := loadConfig(e)
	if err != nil {
		return nil, err
	}
	if c.Contexts == nil {
		c.Contexts = map[string]contextEntry{}
	}
	before := c.effective()
	c.Contexts[devContext] = contextEntry{
		Endpoints: endpoints, PID: os.Getpid(), Started: processStart(os.Getpid()), Previous: before,
	}
	c.Current = devContext
	if err := saveConfig(e, c); err != nil {
		return nil, err
	}
	return func() error {
		c, err := loadConfig(e)
		if err != nil || c.Contexts[devContext].PID != os.Getpid() {
			return err // somebody edited it meanwhile: not ours any more
		}
		delete(c.Contexts, devContext)
		if c.Current == devContext {
			c.Current = ""
			if _, ok := c.Contexts[before]; ok {
				c.Current = before
			}
		}
		return saveConfig(e, c)
	}, nil
}

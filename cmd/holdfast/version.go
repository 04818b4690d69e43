// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newVersionCmd is `holdfast version`.
func newVersionCmd(e *env) *cobra.Command {
	var out outputFlags
	var clientOnly bool
	c := &cobra.Command{
		Use: "version", Short: "Show the version of this tool and of the workers", Args: cobra.NoArgs,
		Long:    "Shows the version of this tool and of the worker that answers. With --client nobody is asked.",
		Example: "  holdfast version\n  holdfast version --client\n  holdfast version -o json",
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		v := struct {
			Client v1.Version  `json:"client"`
			Server *v1.Version `json:"server,omitempty"`
		}{Client: v1.Version{Version: version, API: "v1", Go: runtime.Version()}}
		var asked error
		if !clientOnly {
			api, err := e.client()
			if err == nil {
				var s v1.Version
				if s, err = api.Version(cmd.Context()); err == nil {
					v.Server = &s
				}
			}
			asked = err
		}
		err = e.show(o, v, func(t *text) {
			t.printf("client: %s, API %s, %s\n", v.Client.Version, v.Client.API, v.Client.Go)
			if v.Server != nil {
				t.printf("server: %s, API %s, %s\n", v.Server.Version, v.Server.API, v.Server.Go)
			}
		})
		if err != nil {
			return err
		}
		return asked
	}
	out.registerFormat(c)
	c.Flags().BoolVar(&clientOnly, "client", false, "ask nobody")
	return c
}

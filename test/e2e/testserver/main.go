// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Command testserver is all that the image of the tests contains. It answers on port 8080 with the name of its Pod, and logs
// what it is asked.
//
// usage: testserver            serves
//
//	testserver get URL    prints what a server answers
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		if err := get(os.Stdout, os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	server := &http.Server{
		Addr:              ":8080",
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("asked for %q", r.URL.Path) //nolint:gosec // quoted
			name, err := os.Hostname()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprintf(w, "This is %s.", name)
		}),
	}
	log.Print("serving")
	log.Fatal(server.ListenAndServe())
}

func get(w io.Writer, url string) error {
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url) //nolint:gosec,noctx // of the test's choice
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
